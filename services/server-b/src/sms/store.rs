//! The statements on `sms_messages`: each handles a batch, and each is a transaction of its own.

use std::time::Duration;

use serde::Serialize;
use service_runtime::database::{StoreError, statement_span};
use service_runtime::trace::TraceContext;
use sqlx::PgPool;
use time::OffsetDateTime;
use tracing::Instrument;
use uuid::Uuid;
use wire_contract::{SmsEnvelope, UserId};

use super::provider::OutboundSms;

/// An SMS as it came from the queue.
#[derive(Debug, Clone)]
pub struct ReceivedSms {
    pub envelope: SmsEnvelope,
    /// Stored, so that the dispatch joins the sender's trace.
    pub trace: TraceContext,
}

/// Inserts a batch, all or nothing; returns how many rows are new. A `message_id` that has a row
/// already, or comes twice, counts as done.
pub async fn insert(pool: &PgPool, batch: &[&ReceivedSms]) -> Result<u64, StoreError> {
    fn column<'a, T>(batch: &[&'a ReceivedSms], value: impl Fn(&'a ReceivedSms) -> T) -> Vec<T> {
        batch.iter().map(|sms| value(sms)).collect()
    }
    let inserted = sqlx::query(
        "INSERT INTO sms_messages (
             message_id, user_id, recipient, sender, body, encoding, segments, submitted_at,
             admission_epoch, admission_sequence, admission_cache_age_ms, traceparent, tracestate)
         SELECT * FROM unnest(
             $1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[],
             -- Wider than the column: the insert's own cast refuses what does not fit.
             $7::integer[],
             $8::timestamptz[], $9::bigint[], $10::bigint[], $11::bigint[], $12::text[], $13::text[]
         ) AS sms (message_id)
         -- One order for all, so that two servers with the same redelivered SMS do not deadlock.
         ORDER BY message_id
         ON CONFLICT (message_id) DO NOTHING",
    )
    .bind(column(batch, |sms| sms.envelope.message_id))
    .bind(column(batch, |sms| sms.envelope.user_id))
    .bind(column(batch, |sms| sms.envelope.to.as_str()))
    .bind(column(batch, |sms| sms.envelope.from.as_deref()))
    .bind(column(batch, |sms| sms.envelope.body.as_str()))
    .bind(column(batch, |sms| sms.envelope.encoding.as_str()))
    .bind(column(batch, |sms| i32::from(sms.envelope.segments)))
    .bind(column(batch, |sms| sms.envelope.submitted_at))
    .bind(column(batch, |sms| sms.envelope.admission.epoch))
    .bind(column(batch, |sms| sms.envelope.admission.sequence))
    .bind(column(batch, |sms| {
        i64::try_from(sms.envelope.admission.cache_age_ms).unwrap_or(i64::MAX)
    }))
    .bind(column(batch, |sms| sms.trace.traceparent.as_deref()))
    .bind(column(batch, |sms| sms.trace.tracestate.as_deref()))
    .execute(pool)
    .instrument(statement_span("INSERT", "sms_messages"))
    .await?;
    Ok(inserted.rows_affected())
}

/// A row that was taken for dispatch.
#[derive(Debug, sqlx::FromRow)]
pub struct ClaimedSms {
    #[sqlx(flatten)]
    pub sms: OutboundSms,
    /// Times that it was claimed, this one included. Also the fence: see [`finish`].
    pub attempts: i32,
    /// Rejected at once: the user is gone or inactive.
    pub rejected: bool,
    /// Rejected although it was submitted after the user had been deactivated: the replica's cache was behind.
    pub admitted_late: bool,
    pub traceparent: Option<String>,
    pub tracestate: Option<String>,
}

/// Rows that one [`claim`] takes at most.
pub const CLAIM_LIMIT: usize = 256;

const CLAIM: &str = "
    WITH due AS MATERIALIZED (
        SELECT message_id, user_id, submitted_at FROM sms_messages
        -- `sending` and due: whoever claimed it did not come back within the lease.
        WHERE status IN ('queued', 'sending') AND next_attempt_at <= now()
        -- The longest due first, and nothing that another worker is claiming right now.
        ORDER BY next_attempt_at
        -- A literal: of a parameter the planner thinks that it may be a tenth of the backlog, and
        -- then reads the whole table for the join below.
        LIMIT 256
        FOR UPDATE SKIP LOCKED
    ), checked AS (
        -- The cache of server A may have been behind: what counts are the users of this moment.
        SELECT due.message_id,
               CASE WHEN users.user_id IS NULL THEN 'user_deleted'
                    WHEN NOT users.is_active THEN 'user_inactive' END AS refusal,
               coalesce(NOT users.is_active AND users.updated_at < due.submitted_at, false) AS late
        FROM due LEFT JOIN users USING (user_id)
    )
    UPDATE sms_messages AS sms
    SET status = CASE WHEN refusal IS NULL THEN 'sending' ELSE 'rejected' END,
        status_changed_at = now(),
        error_code = refusal,
        attempts = sms.attempts + 1,
        -- No other worker takes it before the lease has run out.
        next_attempt_at = now() + make_interval(secs => $1)
    FROM checked
    WHERE sms.message_id = checked.message_id
    RETURNING sms.message_id, sms.user_id, sms.recipient, sms.sender, sms.body, sms.encoding,
              sms.segments, sms.attempts, refusal IS NOT NULL AS rejected, late AS admitted_late,
              sms.traceparent, sms.tracestate";

/// Takes due rows: those whose user may still send are held until `lease` has passed, the others are
/// rejected for good.
pub async fn claim(pool: &PgPool, lease: Duration) -> sqlx::Result<Vec<ClaimedSms>> {
    sqlx::query_as(CLAIM)
        .bind(lease.as_secs_f64())
        .fetch_all(pool)
        .await
}

/// What to store of one hand-over.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub message_id: Uuid,
    /// [`ClaimedSms::attempts`] of the claim that it belongs to.
    pub attempts: i32,
    /// `sent`, `failed`, or `queued` for another try.
    pub status: &'static str,
    /// Who was asked, if anyone was.
    pub provider: Option<&'static str>,
    pub provider_message_id: Option<String>,
    pub error_code: Option<&'static str>,
    /// When the next try is due, from now.
    pub retry_after: Duration,
}

/// Stores outcomes. Rows that another worker has claimed since, because the lease ran out, are left to
/// it: the result tells how many were stored.
pub async fn finish(pool: &PgPool, outcomes: &[Outcome]) -> sqlx::Result<u64> {
    fn column<'a, T>(outcomes: &'a [Outcome], value: impl Fn(&'a Outcome) -> T) -> Vec<T> {
        outcomes.iter().map(value).collect()
    }
    let stored = sqlx::query(
        "UPDATE sms_messages AS sms
         SET status = outcome.status,
             status_changed_at = now(),
             provider = coalesce(outcome.provider, sms.provider),
             provider_message_id = outcome.provider_message_id,
             error_code = outcome.error_code,
             next_attempt_at = now() + make_interval(secs => outcome.retry_after)
         FROM unnest(
             $1::uuid[], $2::integer[], $3::text[], $4::text[], $5::text[], $6::text[], $7::float8[]
         ) AS outcome (message_id, attempts, status, provider, provider_message_id, error_code,
                       retry_after)
         -- Each claim counts one attempt more: an older claim's outcome finds no row.
         WHERE sms.message_id = outcome.message_id
           AND sms.status = 'sending' AND sms.attempts = outcome.attempts",
    )
    .bind(column(outcomes, |outcome| outcome.message_id))
    .bind(column(outcomes, |outcome| outcome.attempts))
    .bind(column(outcomes, |outcome| outcome.status))
    .bind(column(outcomes, |outcome| outcome.provider))
    .bind(column(outcomes, |outcome| {
        outcome.provider_message_id.as_deref()
    }))
    .bind(column(outcomes, |outcome| outcome.error_code))
    .bind(column(outcomes, |outcome| {
        outcome.retry_after.as_secs_f64()
    }))
    .execute(pool)
    .await?;
    Ok(stored.rows_affected())
}

/// What became of an SMS, without its number and text.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema, sqlx::FromRow)]
pub struct SmsStatus {
    /// Names it.
    pub message_id: Uuid,
    /// Who sent it.
    pub user_id: UserId,
    /// `queued`, `sending`, `sent`, `delivered`, `undelivered`, `failed`, `expired` or `rejected`.
    pub status: String,
    /// Why it was rejected or failed.
    pub error_code: Option<String>,
    /// Times that it was taken for dispatch.
    pub attempts: i32,
    /// When server A took it.
    #[serde(with = "time::serde::rfc3339")]
    pub submitted_at: OffsetDateTime,
    /// When it came from the queue.
    #[serde(with = "time::serde::rfc3339")]
    pub received_at: OffsetDateTime,
    /// Since when `status` is what it is.
    #[serde(with = "time::serde::rfc3339")]
    pub status_changed_at: OffsetDateTime,
}

/// The state of an SMS.
pub async fn find(pool: &PgPool, message_id: Uuid) -> sqlx::Result<Option<SmsStatus>> {
    sqlx::query_as(
        "SELECT message_id, user_id, status, error_code, attempts, submitted_at, received_at,
                status_changed_at
         FROM sms_messages WHERE message_id = $1",
    )
    .bind(message_id)
    .fetch_optional(pool)
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_claim_takes_as_many_rows_as_its_limit_says() {
        assert!(CLAIM.contains(&format!("LIMIT {CLAIM_LIMIT}\n")));
    }
}
