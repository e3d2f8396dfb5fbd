//! Delivery receipts: what a provider reports of an SMS that it took.
//!
//! A receipt may come before the answer to the hand-over has been stored, more than once, or for an SMS that nobody
//! knows. So one that finds no SMS is kept; whoever stores later, the receipt or the answer, looks for the other.

use std::collections::HashMap;

use reqwest::header::HeaderName;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use sqlx::PgPool;

use super::codes::ErrorCode;
use super::http::Place;
use super::metrics;
use crate::token::Token;

/// Characters of a provider's id and status at most.
const MAX_TEXT: usize = 256;

/// What a provider's receipts look like.
#[derive(Debug)]
pub struct ReceiptRules {
    /// Header that has the secret; without one it is a bearer token.
    pub header: Option<HeaderName>,
    /// Who may send them.
    pub secret: Token,
    message_id: Place,
    status: Place,
    meanings: HashMap<String, Meaning>,
}

/// What a provider's status means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// The handset has it.
    Delivered,
    /// The handset will not get it.
    Undelivered(ErrorCode),
    /// The provider gave it up.
    Failed(ErrorCode),
    /// A step on the way, of no interest.
    Ignored,
}

impl Meaning {
    fn status(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Undelivered(_) => "undelivered",
            Self::Failed(_) => "failed",
            Self::Ignored => "sent",
        }
    }

    fn error_code(self) -> Option<&'static str> {
        match self {
            Self::Undelivered(code) | Self::Failed(code) => Some(code.as_str()),
            Self::Delivered | Self::Ignored => None,
        }
    }
}

/// A receipt, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The provider's id.
    pub provider_message_id: String,
    /// What became of the SMS.
    pub meaning: Meaning,
}

/// Why a receipt was not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// The id is not where it should be.
    #[error("has no id of an SMS where the configuration says, or one of more than 256 characters")]
    MessageId,
    /// The status is not where it should be.
    #[error("has no status where the configuration says, or one of more than 256 characters")]
    Status,
    /// The status is not among the configured ones.
    #[error("has a status of which the configuration says nothing")]
    UnknownStatus,
}

/// What was done with a receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// The SMS is where the receipt says.
    Applied,
    /// It was at its end already.
    Repeated,
    /// No SMS has this id yet: the receipt waits for it.
    Kept,
    /// A step on the way.
    Ignored,
}

impl Done {
    /// As answered, and as a metric's label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Repeated => "repeated",
            Self::Kept => "kept",
            Self::Ignored => "ignored",
        }
    }
}

impl ReceiptRules {
    /// The rules as configured.
    pub fn new(
        header: Option<HeaderName>,
        secret: &SecretString,
        message_id: Place,
        status: Place,
        meanings: HashMap<String, Meaning>,
    ) -> Self {
        Self {
            header,
            secret: Token::new(secret.expose_secret()),
            message_id,
            status,
            meanings,
        }
    }

    /// Reads a receipt.
    pub fn read(&self, body: &Value) -> Result<Receipt, Unreadable> {
        let sane = |text: &String| {
            !text.is_empty() && text.chars().count() <= MAX_TEXT && !text.contains('\0')
        };
        let id = self.message_id.text(body).filter(sane);
        let status = self
            .status
            .text(body)
            .filter(sane)
            .ok_or(Unreadable::Status);
        let meaning = self.meanings.get(&status?);
        Ok(Receipt {
            provider_message_id: id.ok_or(Unreadable::MessageId)?,
            meaning: *meaning.ok_or(Unreadable::UnknownStatus)?,
        })
    }
}

/// Brings a receipt to its SMS, or keeps it.
pub async fn receive(pool: &PgPool, provider: &str, receipt: &Receipt) -> sqlx::Result<Done> {
    if receipt.meaning == Meaning::Ignored {
        return Ok(Done::Ignored);
    }
    let done = apply(pool, provider, receipt).await?;
    if done != Done::Kept {
        return Ok(done);
    }
    keep(pool, provider, receipt).await?;
    // The answer to the hand-over may have been stored meanwhile, by someone who did not see the receipt.
    settle_kept(pool).await?;
    Ok(Done::Kept)
}

/// `sent` ends as the receipt says. Some providers report a delivery after all; nothing comes after that.
async fn apply(pool: &PgPool, provider: &str, receipt: &Receipt) -> sqlx::Result<Done> {
    let (found, applied): (i64, i64) = sqlx::query_as(
        "WITH found AS (
             SELECT message_id, status FROM sms_messages
             WHERE provider = $1 AND provider_message_id = $2 FOR UPDATE
         ), applied AS (
             UPDATE sms_messages AS sms
             SET status = $3, status_changed_at = now(), error_code = $4,
                 history = sms.history || jsonb_strip_nulls(
                     jsonb_build_object('status', $3::text, 'at', now(), 'error_code', $4::text))
             FROM found
             WHERE sms.message_id = found.message_id
               AND (found.status = 'sent' OR ($3 = 'delivered' AND found.status IN ('undelivered', 'failed')))
             RETURNING 1
         )
         SELECT (SELECT count(*) FROM found), (SELECT count(*) FROM applied)",
    )
    .bind(provider)
    .bind(&receipt.provider_message_id)
    .bind(receipt.meaning.status())
    .bind(receipt.meaning.error_code())
    .fetch_one(pool)
    .await?;
    Ok(match (found, applied) {
        (0, _) => Done::Kept,
        (_, 0) => Done::Repeated,
        _ => Done::Applied,
    })
}

async fn keep(pool: &PgPool, provider: &str, receipt: &Receipt) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO sms_receipts (provider, provider_message_id, status, error_code) VALUES ($1, $2, $3, $4)
         ON CONFLICT (provider, provider_message_id)
             DO UPDATE SET status = excluded.status, error_code = excluded.error_code
             WHERE sms_receipts.status <> 'delivered'",
    )
    .bind(provider)
    .bind(&receipt.provider_message_id)
    .bind(receipt.meaning.status())
    .bind(receipt.meaning.error_code())
    .execute(pool)
    .await?;
    Ok(())
}

/// Brings kept receipts to the SMS that have got their ids since.
pub async fn settle_kept(pool: &PgPool) -> sqlx::Result<()> {
    let settled: Vec<(String, bool)> = sqlx::query_as(
        "WITH matched AS (
             DELETE FROM sms_receipts AS kept USING sms_messages AS sms
             WHERE sms.provider = kept.provider AND sms.provider_message_id = kept.provider_message_id
             RETURNING kept.provider, kept.status, kept.error_code, sms.message_id
         ), applied AS (
             UPDATE sms_messages AS sms
             SET status = matched.status, status_changed_at = now(), error_code = matched.error_code,
                 history = sms.history || jsonb_strip_nulls(jsonb_build_object(
                     'status', matched.status, 'at', now(), 'error_code', matched.error_code))
             FROM matched
             WHERE sms.message_id = matched.message_id
               AND (sms.status = 'sent'
                    OR (matched.status = 'delivered' AND sms.status IN ('undelivered', 'failed')))
             RETURNING sms.message_id
         )
         SELECT provider, applied.message_id IS NOT NULL FROM matched LEFT JOIN applied USING (message_id)",
    )
    .fetch_all(pool)
    .await?;
    for (provider, applied) in settled {
        let done = if applied {
            Done::Applied
        } else {
            Done::Repeated
        };
        metrics::receipt(&provider, done.as_str());
    }
    Ok(())
}

/// Forgets receipts that have waited for a day: nobody knows their SMS. They are counted and logged.
pub async fn give_up(pool: &PgPool) -> sqlx::Result<()> {
    let unknown: Vec<String> = sqlx::query_scalar(
        "DELETE FROM sms_receipts WHERE received_at < now() - interval '1 day' RETURNING provider",
    )
    .fetch_all(pool)
    .await?;
    for provider in &unknown {
        metrics::receipt(provider, "unknown");
    }
    if !unknown.is_empty() {
        let count = unknown.len();
        tracing::warn!(
            count,
            "delivery receipts of unknown SMS given up after a day"
        );
    }
    Ok(())
}
