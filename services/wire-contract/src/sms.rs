//! The SMS path.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::user::UserId;

/// How the text is encoded on air (3GPP TS 23.038).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Encoding {
    /// 7-bit default alphabet: 160 characters in one segment, 153 in each of several.
    #[serde(rename = "gsm7")]
    Gsm7,
    /// 16-bit: 70 characters in one segment, 67 in each of several.
    #[serde(rename = "ucs2")]
    Ucs2,
}

impl Encoding {
    /// As the wire and the database write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gsm7 => "gsm7",
            Self::Ucs2 => "ucs2",
        }
    }
}

/// Which state of the cache let an SMS in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    /// Epoch of the cache.
    pub epoch: i64,
    /// Last event that it had applied.
    pub sequence: i64,
    /// Milliseconds since the replica last heard from the stream.
    pub cache_age_ms: u64,
}

/// An accepted SMS on its way to server B (requirement 3.1).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SmsEnvelope {
    /// The caller, from its `ClientContext`.
    pub user_id: UserId,
    /// Also the AMQP `message_id`; server B keeps one row for each.
    pub message_id: Uuid,
    /// E.164.
    pub to: String,
    /// Sender: E.164, short code or alphanumeric.
    pub from: Option<String>,
    /// Text.
    pub body: String,
    /// How `body` is encoded.
    pub encoding: Encoding,
    /// Parts that `body` is split into.
    pub segments: u16,
    /// When server A took it in.
    #[serde(with = "time::serde::rfc3339")]
    pub submitted_at: OffsetDateTime,
    /// Which state of the cache let it in.
    pub admission: Admission,
}

impl std::fmt::Debug for SmsEnvelope {
    /// Without numbers and text: they are personal data and stay out of logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SmsEnvelope")
            .field("user_id", &self.user_id)
            .field("message_id", &self.message_id)
            .field("segments", &self.segments)
            .finish_non_exhaustive()
    }
}

/// Quota that users have used, batched (`sms.usage` on `sms_usage_exchange`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SmsUsage {
    /// UTC day, `YYYY-MM-DD`.
    pub day: String,
    /// One entry a user.
    pub users: Vec<UsageEntry>,
}

/// Segments used by one user on one day. Absolute, so a repeated or lost message does no harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageEntry {
    /// The user.
    pub user_id: UserId,
    /// Segments used that day.
    pub segments: u32,
}
