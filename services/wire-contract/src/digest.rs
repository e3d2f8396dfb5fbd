//! The order-independent digest of a set of users.
//!
//! A sum (modulo 2^128) of hashes: one per user over its fields, and one per key. Adding and removing
//! is cheap, so the relay and every replica keep theirs up to date with each change; equal sums at
//! the same position mean equal sets (up to a collision of truncated SHA-256). Keys are summed on
//! their own because replicas keep them in an index of their own: an index entry that was left behind
//! must make the digest differ. It is computed here only, never in SQL.

use std::fmt;
use std::ops::{AddAssign, SubAssign};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};

use crate::key::ShortDigest;
use crate::user::{UserId, UserRecord};

/// Version of what is hashed. A replica that sees another one cannot compare: unprovable, not wrong.
pub const DIGEST_VERSION: u16 = 1;

/// What stands for `expires_at` of a user's current key, which does not expire.
const NEVER: i64 = i64::MAX;

/// Digest of a set of users; written as 32 hex digits. The empty set is zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct UserSetDigest(u128);

/// Hash of a user's own fields, without its keys.
#[must_use]
pub fn user_hash(
    user_id: UserId,
    version: i64,
    username: &str,
    is_active: bool,
    daily_quota: i32,
) -> UserSetDigest {
    let mut hasher = Sha256::new();
    hasher.update(b"user");
    hasher.update(user_id.to_be_bytes());
    hasher.update(version.to_be_bytes());
    hasher.update([u8::from(is_active)]);
    hasher.update(daily_quota.to_be_bytes());
    // The name comes last: nothing after it could be mistaken for a part of it.
    hasher.update(username.as_bytes());
    truncate(hasher)
}

/// Hash of one key of a user; `expires_at_micros` is `None` for the current key.
#[must_use]
pub fn key_hash(
    user_id: UserId,
    key: &ShortDigest,
    expires_at_micros: Option<i64>,
) -> UserSetDigest {
    let mut hasher = Sha256::new();
    hasher.update(b"key");
    hasher.update(user_id.to_be_bytes());
    hasher.update(key);
    hasher.update(expires_at_micros.unwrap_or(NEVER).to_be_bytes());
    truncate(hasher)
}

impl UserSetDigest {
    /// The contribution of one user with its keys: each with its expiry in microseconds since the epoch, the current one
    /// without.
    #[must_use]
    pub fn of(
        user_id: UserId,
        version: i64,
        username: &str,
        is_active: bool,
        daily_quota: i32,
        keys: impl IntoIterator<Item = (ShortDigest, Option<i64>)>,
    ) -> Self {
        let mut sum = user_hash(user_id, version, username, is_active, daily_quota);
        for (key, expires_at_micros) in keys {
            sum += key_hash(user_id, &key, expires_at_micros);
        }
        sum
    }

    /// The contribution of one user as it is on the wire.
    #[must_use]
    pub fn of_user(user: &UserRecord) -> Self {
        let current = user.api_key.iter().map(|key| (key.digest().short(), None));
        let previous = user.previous_keys.iter();
        let previous = previous.map(|it| (it.digest.short(), Some(it.expires_at_micros())));
        Self::of(
            user.user_id,
            user.version,
            &user.username,
            user.is_active,
            user.daily_quota,
            current.chain(previous),
        )
    }

    /// For storage.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// From storage.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }
}

fn truncate(hasher: Sha256) -> UserSetDigest {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hasher.finalize()[..16]);
    UserSetDigest(u128::from_be_bytes(bytes))
}

impl AddAssign for UserSetDigest {
    fn add_assign(&mut self, other: Self) {
        self.0 = self.0.wrapping_add(other.0);
    }
}

impl SubAssign for UserSetDigest {
    fn sub_assign(&mut self, other: Self) {
        self.0 = self.0.wrapping_sub(other.0);
    }
}

impl fmt::Display for UserSetDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for UserSetDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for UserSetDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for UserSetDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        if text.len() != 32 {
            return Err(de::Error::custom("a digest is written as 32 hex digits"));
        }
        u128::from_str_radix(&text, 16)
            .map(Self)
            .map_err(de::Error::custom)
    }
}
