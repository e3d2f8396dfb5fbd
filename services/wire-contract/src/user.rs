//! A user as the wire carries it.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::key::{ApiKey, KeyDigest};

/// The stable primary key of a user; never used twice.
pub type UserId = i64;

/// A point of the configuration stream. Epochs are ordered; within one, `sequence` is contiguous.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Position {
    /// Grows when the database was restored or failed over.
    pub epoch: i64,
    /// Number of the last event within the epoch.
    pub sequence: i64,
}

/// A user: the five fields of the requirement (1.2), keys that still overlap, and the version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRecord {
    /// Stable primary key.
    pub user_id: UserId,
    /// The current key; `null` for a user that has none at the moment.
    pub api_key: Option<ApiKey>,
    /// Unique name.
    pub username: String,
    /// Whether sends are accepted.
    pub is_active: bool,
    /// SMS segments a UTC day; 0 means none.
    pub daily_quota: i32,
    /// Keys that were replaced but are accepted until they expire.
    #[serde(default)]
    pub previous_keys: Vec<PreviousKey>,
    /// Grows with every change of this user, never repeats.
    pub version: i64,
}

/// A replaced key that is accepted until `expires_at`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviousKey {
    /// Digest of the key.
    pub digest: KeyDigest,
    /// RFC 3339, microseconds.
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
}

impl PreviousKey {
    /// Expiry in microseconds since the Unix epoch: the precision of the database, and what is hashed.
    #[must_use]
    pub fn expires_at_micros(&self) -> i64 {
        i64::try_from(self.expires_at.unix_timestamp_nanos() / 1_000).unwrap_or(i64::MAX - 1)
    }
}
