//! The SMS path.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use uuid::{Builder, Uuid};

use crate::key::KeyDigest;
use crate::user::UserId;

/// Keeps derived ids apart from any other use of the same hash.
const IDEMPOTENCY_CONTEXT: &[u8] = b"identity-sync idempotency v1";

/// How the text is encoded on air (3GPP TS 23.038).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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
    /// Not to be handed to a provider after this; absent where the caller set no validity.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub expires_at: Option<OffsetDateTime>,
    /// The caller's own name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_reference: Option<String>,
    /// The key that the caller presented: when it was last used is kept by server B.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_digest: Option<KeyDigest>,
    /// Of a request with an `Idempotency-Key`: what was asked for. Another content under the same `message_id` is a
    /// conflict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_hash: Option<String>,
}

/// The `message_id` of a request with an `Idempotency-Key`: any replica derives the same, and server B keeps one row.
///
/// A UUID of version 8 (RFC 9562, 5.8) made of a SHA-256 over user and key.
#[must_use]
pub fn idempotent_message_id(user_id: UserId, idempotency_key: &str) -> Uuid {
    let hash = Sha256::new()
        .chain_update(IDEMPOTENCY_CONTEXT)
        .chain_update(user_id.to_be_bytes())
        .chain_update(idempotency_key.as_bytes())
        .finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    Builder::from_custom_bytes(bytes).into_uuid()
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
    /// The newest `submitted_at` of the user's SMS of that day among those that have just been stored: what was submitted
    /// later is not in `segments` yet. Absent where nothing was stored, and from a server B that does not know the field.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub stored_until: Option<OffsetDateTime>,
}

/// Where an SMS is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum SmsStatus {
    /// Accepted; waits for its first or next hand-over.
    Queued,
    /// Is being handed to a provider.
    Sending,
    /// A provider took it.
    Sent,
    /// The provider reports that the handset has it.
    Delivered,
    /// The provider reports that the handset will not get it.
    Undelivered,
    /// No provider took it.
    Failed,
    /// Its validity ended before a provider took it.
    Expired,
    /// Server B would not hand it over: the user may not send, or the quota is used up.
    Rejected,
}

impl SmsStatus {
    /// All, in the order of the way.
    pub const ALL: [Self; 8] = [
        Self::Queued,
        Self::Sending,
        Self::Sent,
        Self::Delivered,
        Self::Undelivered,
        Self::Failed,
        Self::Expired,
        Self::Rejected,
    ];

    /// As the wire and the database write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sending => "sending",
            Self::Sent => "sent",
            Self::Delivered => "delivered",
            Self::Undelivered => "undelivered",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Rejected => "rejected",
        }
    }
}

impl std::str::FromStr for SmsStatus {
    type Err = UnknownSmsStatus;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|it| it.as_str() == text);
        found.ok_or(UnknownSmsStatus)
    }
}

/// A text that names no [`SmsStatus`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "must be one of queued, sending, sent, delivered, undelivered, failed, expired and rejected"
)]
pub struct UnknownSmsStatus;

/// One step of an SMS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SmsTransition {
    /// What it became.
    pub status: SmsStatus,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// Why, where there is a reason: a stable code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
}

/// What became of an SMS, as its owner may see it: server B answers server A with it
/// (`/internal/v1/users/{user_id}/sms/{message_id}`), and server A the client.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SmsRecord {
    /// Names the SMS.
    pub message_id: Uuid,
    /// Where it is now.
    pub status: SmsStatus,
    /// E.164.
    pub to: String,
    /// Sender.
    pub from: Option<String>,
    /// How the text is encoded.
    pub encoding: Encoding,
    /// Parts that the text is split into.
    pub segments: u16,
    /// The caller's own name for it.
    pub client_reference: Option<String>,
    /// When server A took it in.
    #[serde(with = "time::serde::rfc3339")]
    pub submitted_at: OffsetDateTime,
    /// Not handed over after this.
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
    /// Why it is where it is; a stable code.
    pub error_code: Option<String>,
    /// Requests with the same `Idempotency-Key` and another content, which changed nothing.
    pub idempotency_conflicts: u32,
    /// All steps, the oldest first; begins with `queued`.
    pub history: Vec<SmsTransition>,
}

impl std::fmt::Debug for SmsRecord {
    /// Without numbers and the client's words.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SmsRecord")
            .field("message_id", &self.message_id)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

/// A page of a user's SMS, the newest first (`/internal/v1/users/{user_id}/sms`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SmsPage {
    /// At most as many as asked for.
    pub items: Vec<SmsRecord>,
    /// Opaque; asks for the next page, absent on the last.
    pub next_cursor: Option<String>,
}
