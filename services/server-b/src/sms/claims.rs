//! The dispatcher's statements on `sms_messages`: rows are claimed, handed over, and finished, each in a transaction of
//! its own.

use std::time::Duration;

use sqlx::PgPool;
use uuid::Uuid;

use super::codes::ErrorCode;
use super::provider::OutboundSms;

/// A row that was taken for dispatch.
#[derive(Debug, sqlx::FromRow)]
pub struct ClaimedSms {
    #[sqlx(flatten)]
    pub sms: OutboundSms,
    /// Times that it was claimed, this one included. Also the fence: see [`finish`].
    pub attempts: i32,
    /// Hand-overs that a provider did not take.
    pub failures: i32,
    /// `sending`; or at its end at once: `expired`, or `rejected` since the user is gone or inactive.
    pub status: String,
    /// Its last lease ran out: it may have been handed over already.
    pub again: bool,
    /// Rejected although it was submitted after the user had been deactivated or deleted: the replica's cache was behind.
    pub admitted_late: bool,
    pub traceparent: Option<String>,
    pub tracestate: Option<String>,
}

/// Rows that one [`claim`] takes at most.
pub const CLAIM_LIMIT: u32 = 256;

const CLAIM: &str = "
    WITH due AS MATERIALIZED (
        SELECT message_id, user_id, submitted_at, expires_at, status FROM sms_messages
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
        SELECT due.message_id, due.status = 'sending' AS again,
               CASE WHEN users.user_id IS NULL THEN 'user_deleted'
                    WHEN NOT users.is_active THEN 'user_inactive'
                    -- What may have been sent is asked for once more, under its token, rather than called expired.
                    WHEN due.expires_at <= now() AND due.status = 'queued' THEN 'validity_expired' END AS refusal,
               users.is_active IS DISTINCT FROM true
                   AND coalesce(revocations.revoked_at < due.submitted_at, false) AS late
        FROM due LEFT JOIN users USING (user_id) LEFT JOIN revocations USING (user_id)
    ), judged AS (
        SELECT *, CASE WHEN refusal IS NULL THEN 'sending'
                       WHEN refusal = 'validity_expired' THEN 'expired' ELSE 'rejected' END AS verdict
        FROM checked
    )
    UPDATE sms_messages AS sms
    SET status = verdict,
        status_changed_at = now(),
        error_code = refusal,
        -- No second step for a row that is `sending` already.
        history = CASE WHEN again AND verdict = 'sending' THEN sms.history
                       ELSE sms.history || jsonb_strip_nulls(
                           jsonb_build_object('status', verdict, 'at', now(), 'error_code', refusal)) END,
        attempts = sms.attempts + 1,
        -- No other worker takes it before the lease has run out.
        next_attempt_at = now() + make_interval(secs => $1)
    FROM judged
    WHERE sms.message_id = judged.message_id
    RETURNING sms.message_id, sms.user_id, sms.recipient, sms.sender, sms.body, sms.encoding,
              sms.segments, sms.attempts, sms.failures, sms.status, again, late AS admitted_late,
              sms.traceparent, sms.tracestate";

/// Takes due rows: those that may still be sent are held until `lease` has passed, the others are at their end.
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
    /// `sent`, `failed`, or `queued` for another try; `sending` of a row that was put back and whose last lease had run out.
    pub status: &'static str,
    /// Who was asked, if anyone was.
    pub provider: Option<String>,
    pub provider_message_id: Option<String>,
    pub error_code: Option<ErrorCode>,
    /// When the next try is due, from now; at the latest when its validity ends, so that it expires in time.
    pub retry_after: Duration,
}

impl Outcome {
    /// Whether a provider was asked and did not take it.
    fn is_failure(&self) -> bool {
        self.provider.is_some() && self.error_code.is_some()
    }
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
             failures = sms.failures + outcome.failures,
             -- A put-back takes the step of its claim away: nothing has happened, however often.
             history = CASE WHEN outcome.status = 'sending' THEN sms.history
                            WHEN outcome.provider IS NULL AND outcome.status = 'queued' THEN sms.history - (-1)
                            ELSE sms.history || jsonb_strip_nulls(jsonb_build_object(
                                'status', outcome.status, 'at', now(), 'error_code', outcome.error_code)) END,
             -- Only what is queued expires.
             next_attempt_at = least(now() + make_interval(secs => outcome.retry_after),
                                     CASE WHEN outcome.status = 'queued'
                                          THEN greatest(coalesce(sms.expires_at, 'infinity'), now()) END)
         FROM unnest(
             $1::uuid[], $2::integer[], $3::text[], $4::text[], $5::text[], $6::text[], $7::float8[], $8::integer[]
         ) AS outcome (message_id, attempts, status, provider, provider_message_id, error_code,
                       retry_after, failures)
         -- Each claim counts one attempt more: an older claim's outcome finds no row.
         WHERE sms.message_id = outcome.message_id
           AND sms.status = 'sending' AND sms.attempts = outcome.attempts",
    )
    .bind(column(outcomes, |outcome| outcome.message_id))
    .bind(column(outcomes, |outcome| outcome.attempts))
    .bind(column(outcomes, |outcome| outcome.status))
    .bind(column(outcomes, |outcome| outcome.provider.as_deref()))
    .bind(column(outcomes, |outcome| {
        outcome.provider_message_id.as_deref()
    }))
    .bind(column(outcomes, |outcome| {
        outcome.error_code.map(ErrorCode::as_str)
    }))
    .bind(column(outcomes, |outcome| {
        outcome.retry_after.as_secs_f64()
    }))
    .bind(column(outcomes, |outcome| i32::from(outcome.is_failure())))
    .execute(pool)
    .await?;
    Ok(stored.rows_affected())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_claim_takes_as_many_rows_as_its_limit_says() {
        assert!(CLAIM.contains(&format!("LIMIT {CLAIM_LIMIT}\n")));
    }

    #[test]
    fn the_claim_writes_codes_that_are_known() {
        let codes = [
            ErrorCode::UserDeleted,
            ErrorCode::UserInactive,
            ErrorCode::ValidityExpired,
        ];
        for code in codes {
            assert!(CLAIM.contains(&format!("THEN '{code}'")), "{code}");
        }
    }
}
