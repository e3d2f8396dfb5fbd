//! Where an SMS leaves the house.
//!
//! A trait and not an enum: several gateways stand side by side, and tests put one here that fails.

use std::fmt;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use uuid::Uuid;
use wire_contract::UserId;

use super::codes::ErrorCode;

/// An SMS to hand over.
#[derive(Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct OutboundSms {
    /// Also the idempotency token: a gateway that sees it again must not send again.
    pub message_id: Uuid,
    /// Whose it is.
    pub user_id: UserId,
    /// Recipient, E.164.
    pub recipient: String,
    /// Sender, where the user named one.
    pub sender: Option<String>,
    /// Text.
    pub body: String,
    /// `gsm7` or `ucs2`.
    pub encoding: String,
    /// Parts that `body` is split into.
    pub segments: i16,
}

impl fmt::Debug for OutboundSms {
    /// Without numbers and text: they are personal data and stay out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutboundSms")
            .field("message_id", &self.message_id)
            .field("user_id", &self.user_id)
            .field("segments", &self.segments)
            .finish_non_exhaustive()
    }
}

/// The provider took the SMS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The provider's own name for it, where it told one: its delivery receipts name it.
    pub provider_message_id: Option<String>,
}

/// The provider did not take the SMS. The code is stored with the row and shown to the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// Another try may succeed. It is made with the same idempotency token, so also for an SMS of
    /// which nobody knows whether it was sent.
    #[error("not accepted for now: {code}")]
    Retryable {
        /// Why.
        code: ErrorCode,
        /// When to come back, where the provider says so.
        retry_after: Option<Duration>,
    },
    /// No other try will succeed.
    #[error("refused: {code}")]
    Permanent {
        /// Why.
        code: ErrorCode,
    },
    /// The provider was not asked: as many hand-overs as it may have at once are under way.
    #[error("no room for another hand-over")]
    Full,
}

impl SendError {
    /// Why the provider did not take it; `None` if it was not asked.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Retryable { code, .. } | Self::Permanent { code } => Some(*code),
            Self::Full => None,
        }
    }
}

/// An SMS gateway.
pub trait Provider: Send + Sync + 'static {
    /// As stored in the row and used as a metric's label.
    fn name(&self) -> &str;

    /// Hands one SMS over. May be called again with the same `message_id`, and many times at once.
    fn send<'a>(&'a self, sms: &'a OutboundSms) -> BoxFuture<'a, Result<Accepted, SendError>>;
}

/// Provider `log`, for development: one line for each SMS, without numbers and text.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogProvider;

impl LogProvider {
    /// Where no providers are configured.
    pub const NAME: &str = "log";
}

impl Provider for LogProvider {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn send<'a>(&'a self, sms: &'a OutboundSms) -> BoxFuture<'a, Result<Accepted, SendError>> {
        tracing::info!(
            message_id = %sms.message_id,
            user_id = sms.user_id,
            segments = sms.segments,
            encoding = sms.encoding,
            "SMS sent to the log"
        );
        let provider_message_id = Some(sms.message_id.to_string());
        std::future::ready(Ok(Accepted {
            provider_message_id,
        }))
        .boxed()
    }
}
