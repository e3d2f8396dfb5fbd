//! Delivery receipts: what a provider reports of an SMS that it took.
//!
//! A receipt may come before the answer to the hand-over has been stored, more than once, or for an SMS that nobody
//! knows. So one that finds no SMS is kept; whoever stores later, the receipt or the answer, looks for the other.

use std::collections::HashMap;

use reqwest::header::HeaderName;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use service_runtime::trace::{self, TraceContext};
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
    settle(pool, &[(provider, &receipt.provider_message_id)]).await?;
    Ok(Done::Kept)
}

/// `sent` ends as the receipt says. Some providers report a delivery after all; nothing comes after that.
async fn apply(pool: &PgPool, provider: &str, receipt: &Receipt) -> sqlx::Result<Done> {
    let (found, applied, traceparent, tracestate) = sqlx::query_as(
        "WITH found AS (
             SELECT message_id, status, traceparent, tracestate FROM sms_messages
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
         SELECT (SELECT count(*) FROM found), (SELECT count(*) FROM applied),
                (SELECT traceparent FROM found LIMIT 1), (SELECT tracestate FROM found LIMIT 1)",
    )
    .bind(provider)
    .bind(&receipt.provider_message_id)
    .bind(receipt.meaning.status())
    .bind(receipt.meaning.error_code())
    .fetch_one(pool)
    .await?;
    let done = match (found, applied) {
        (0_i64, _) => Done::Kept,
        (_, 0_i64) => Done::Repeated,
        _ => Done::Applied,
    };
    record(traceparent, tracestate, provider, done);
    Ok(done)
}

/// A span in the trace of the SMS, if that is recorded: its last step. The request that brought the receipt is in a trace of the
/// provider's or of its own, and linked.
fn record(traceparent: Option<String>, tracestate: Option<String>, provider: &str, outcome: Done) {
    let sms = TraceContext::received(traceparent, tracestate);
    if !sms.is_sampled() {
        return;
    }
    let span = tracing::error_span!(
        parent: None,
        "receipt",
        otel.name = "process delivery receipt",
        otel.kind = "internal",
        sms.provider = provider,
        sms.outcome = outcome.as_str(),
    );
    sms.set_parent_of(&span);
    trace::link_to_current(&span);
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

/// Rows that one statement settles at most.
const SETTLE_LIMIT: usize = 1000;

/// The kept receipts of a source of rows, brought to their SMS.
macro_rules! settle {
    ($source:literal) => {
        concat!(
            "WITH due AS (
                 SELECT kept.provider, kept.provider_message_id, sms.message_id, sms.traceparent, sms.tracestate
                 FROM ",
            $source,
            " JOIN sms_messages AS sms USING (provider, provider_message_id)
                 WHERE sms.provider_message_id IS NOT NULL
                 ORDER BY kept.provider, kept.provider_message_id
                 LIMIT 1000
                 -- What is locked is being settled by another, or is kept anew by one who settles it then.
                 FOR UPDATE OF kept SKIP LOCKED
             ), matched AS (
                 DELETE FROM sms_receipts AS kept USING due
                 WHERE kept.provider = due.provider AND kept.provider_message_id = due.provider_message_id
                 RETURNING kept.provider, kept.status, kept.error_code, due.message_id, due.traceparent, due.tracestate
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
             SELECT provider, applied.message_id IS NOT NULL, traceparent, tracestate
             FROM matched LEFT JOIN applied USING (message_id)"
        )
    };
}

const SETTLE_THESE: &str = settle!(
    "unnest($1::text[], $2::text[]) AS these (provider, provider_message_id)
         JOIN sms_receipts AS kept USING (provider, provider_message_id)"
);
const SETTLE_ALL: &str = settle!("sms_receipts AS kept");

/// Of a kept receipt: its provider, whether it was applied, and the trace of its SMS.
type Settled = (String, bool, Option<String>, Option<String>);

/// Brings kept receipts to these SMS, each by its provider and the provider's id.
pub async fn settle(pool: &PgPool, these: &[(&str, &str)]) -> sqlx::Result<()> {
    for these in these.chunks(SETTLE_LIMIT) {
        let (providers, ids): (Vec<&str>, Vec<&str>) = these.iter().copied().unzip();
        let settled = sqlx::query_as(SETTLE_THESE).bind(providers).bind(ids);
        tell(settled.fetch_all(pool).await?);
    }
    Ok(())
}

/// Brings all kept receipts to the SMS that have got their ids since: those that nobody looked for.
pub async fn settle_all(pool: &PgPool) -> sqlx::Result<()> {
    loop {
        let settled: Vec<Settled> = sqlx::query_as(SETTLE_ALL).fetch_all(pool).await?;
        let all = settled.len() < SETTLE_LIMIT;
        tell(settled);
        if all {
            return Ok(());
        }
    }
}

fn tell(settled: Vec<Settled>) {
    for (provider, applied, traceparent, tracestate) in settled {
        let done = if applied {
            Done::Applied
        } else {
            Done::Repeated
        };
        metrics::receipt(&provider, done.as_str());
        record(traceparent, tracestate, &provider, done);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_settles_as_many_receipts_as_the_limit_says() {
        for sql in [SETTLE_THESE, SETTLE_ALL] {
            assert!(sql.contains(&format!("LIMIT {SETTLE_LIMIT}\n")));
        }
    }
}
