//! A batch of received SMS → `sms_messages` rows, and what they cost their users: one transaction.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use service_runtime::database::{StoreError, Traced};
use service_runtime::trace::TraceContext;
use sqlx::{PgConnection, PgPool};
use time::Date;
use uuid::Uuid;
use wire_contract::{SmsEnvelope, UserId};

use super::codes::ErrorCode;
use super::quota::{self, Account, Ledger, NewRow, Plan};

/// An SMS as it came from the queue.
#[derive(Debug, Clone)]
pub struct ReceivedSms {
    pub envelope: SmsEnvelope,
    /// Stored, so that the dispatch joins the sender's trace.
    pub trace: TraceContext,
}

/// What a committed batch came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Rows written.
    pub new: u64,
    /// Of them, those refused because the quota is used up.
    pub over_quota: u64,
    /// Deliveries with a known id and another content.
    pub conflicts: u64,
    /// Segments used by every user that the batch names, by day.
    pub usage: Vec<(Account, u32)>,
}

/// Stores a batch, all or nothing. A `message_id` that has a row already, or comes twice, counts as done. `validity` is
/// that of SMS that name none.
pub async fn insert(
    pool: &PgPool,
    batch: &[&ReceivedSms],
    validity: Duration,
) -> Result<Stored, StoreError> {
    let accounts: Vec<Account> = quota::accounts_of(batch).into_iter().collect();
    let mut transaction = pool.begin().await?;
    lock_usage(&mut transaction, &accounts).await?;
    // A statement of its own: it sees what those who had the locks before have committed.
    let (ledger, before) = read_ledger(&mut transaction, batch, &accounts).await?;
    let plan = quota::plan(batch, ledger);
    let written = write(&mut transaction, batch, &plan, validity)
        .traced("INSERT", "sms_messages")
        .await?;
    transaction.commit().await?;
    Ok(Stored {
        new: written.new.unsigned_abs(),
        over_quota: written.over_quota.unsigned_abs(),
        conflicts: plan.conflict_count(),
        usage: written.usage_after(before),
    })
}

/// Makes the rows that are missing, and locks all. One order for everybody, so that nobody deadlocks.
async fn lock_usage(connection: &mut PgConnection, accounts: &[Account]) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO sms_usage (day, user_id, segments)
         SELECT day, user_id, 0 FROM unnest($1::date[], $2::bigint[]) AS account (day, user_id)
         ORDER BY day, user_id
         -- Never true: the row is locked and stays as it is.
         ON CONFLICT (day, user_id) DO UPDATE SET segments = 0 WHERE false",
    )
    .bind(days(accounts))
    .bind(users(accounts))
    .execute(connection)
    .await?;
    Ok(())
}

/// Of what the ledger is made: an SMS that has its row, or an account.
#[derive(sqlx::FromRow)]
struct LedgerRow {
    message_id: Option<Uuid>,
    request_hash: Option<String>,
    day: Option<Date>,
    user_id: Option<UserId>,
    segments: Option<i32>,
    daily_quota: Option<i32>,
}

async fn read_ledger(
    connection: &mut PgConnection,
    batch: &[&ReceivedSms],
    accounts: &[Account],
) -> sqlx::Result<(Ledger, Vec<(Account, u32)>)> {
    let rows: Vec<LedgerRow> = sqlx::query_as(
        "SELECT message_id, request_hash, NULL::date AS day, NULL::bigint AS user_id, NULL::integer AS segments,
                NULL::integer AS daily_quota
         FROM sms_messages WHERE message_id = ANY ($1)
         UNION ALL
         SELECT NULL, NULL, day, user_id, segments, daily_quota
         FROM unnest($2::date[], $3::bigint[]) AS account (day, user_id)
         JOIN sms_usage USING (day, user_id)
         LEFT JOIN users USING (user_id)",
    )
    .bind(column(batch, |sms| sms.envelope.message_id))
    .bind(days(accounts))
    .bind(users(accounts))
    .fetch_all(connection)
    .await?;
    let (mut ledger, mut usage) = (Ledger::default(), Vec::with_capacity(accounts.len()));
    for row in rows {
        if let Some(id) = row.message_id {
            ledger.known.insert(id, row.request_hash);
        } else if let (Some(account), Some(used)) = (row.day.zip(row.user_id), row.segments) {
            let quota = row.daily_quota.map(i64::from);
            ledger.accounts.insert(account, (used.into(), quota));
            usage.push((account, used.unsigned_abs()));
        }
    }
    Ok((ledger, usage))
}

/// What [`write`] did. `days`, `users` and `segments` are the accounts that were charged, and what they have used now.
#[derive(sqlx::FromRow)]
struct Written {
    new: i64,
    over_quota: i64,
    days: Vec<Date>,
    users: Vec<UserId>,
    segments: Vec<i32>,
}

impl Written {
    fn usage_after(&self, mut usage: Vec<(Account, u32)>) -> Vec<(Account, u32)> {
        let charged = self.days.iter().zip(&self.users).zip(&self.segments);
        let charged: HashMap<Account, u32> = charged
            .map(|((day, user), segments)| ((*day, *user), segments.unsigned_abs()))
            .collect();
        for (account, segments) in &mut usage {
            *segments = charged.get(account).copied().unwrap_or(*segments);
        }
        usage
    }
}

const WRITE: &str = "
    WITH inserted AS (
        INSERT INTO sms_messages (
            message_id, user_id, recipient, sender, body, encoding, segments, submitted_at, admission_epoch,
            admission_sequence, admission_cache_age_ms, traceparent, tracestate, client_reference, request_hash,
            idempotency_conflicts, expires_at, status, error_code, history)
        SELECT message_id, user_id, recipient, sender, body, encoding, segments, submitted_at, admission_epoch,
               admission_sequence, admission_cache_age_ms, traceparent, tracestate, client_reference, request_hash,
               conflicts, coalesce(expires_at, submitted_at + make_interval(secs => $19)),
               CASE WHEN refusal IS NULL THEN 'queued' ELSE 'rejected' END, refusal,
               CASE WHEN refusal IS NULL THEN '[]' ELSE jsonb_build_array(
                   jsonb_build_object('status', 'rejected', 'at', now(), 'error_code', refusal)) END
        FROM unnest(
            $1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[],
            -- Wider than the column: the insert's own cast refuses what does not fit.
            $7::integer[],
            $8::timestamptz[], $9::bigint[], $10::bigint[], $11::bigint[], $12::text[], $13::text[], $14::text[],
            $15::text[], $16::integer[], $17::timestamptz[], $18::text[]
        ) AS sms (message_id, user_id, recipient, sender, body, encoding, segments, submitted_at, admission_epoch,
                  admission_sequence, admission_cache_age_ms, traceparent, tracestate, client_reference,
                  request_hash, conflicts, expires_at, refusal)
        -- One order for all, so that two servers with the same redelivered SMS do not deadlock.
        ORDER BY message_id
        ON CONFLICT (message_id) DO NOTHING
        RETURNING user_id, (submitted_at AT TIME ZONE 'UTC')::date AS day, segments, status
    ), charged AS (
        -- By what was inserted, and by nothing else.
        UPDATE sms_usage SET segments = sms_usage.segments + cost.segments
        FROM (SELECT day, user_id, sum(segments)::integer AS segments FROM inserted WHERE status = 'queued'
              GROUP BY day, user_id) AS cost
        WHERE sms_usage.day = cost.day AND sms_usage.user_id = cost.user_id
        RETURNING sms_usage.day, sms_usage.user_id, sms_usage.segments
    ), conflicting AS (
        UPDATE sms_messages SET idempotency_conflicts = idempotency_conflicts + conflict.count
        FROM unnest($20::uuid[], $21::integer[]) AS conflict (message_id, count)
        WHERE sms_messages.message_id = conflict.message_id
    ), used_keys AS (
        -- Once an hour is enough. Whoever has the row locked writes something more important.
        UPDATE api_keys SET last_used_at = now()
        WHERE key_id IN (
            SELECT key_id FROM api_keys
            WHERE digest = ANY ($22) AND (last_used_at IS NULL OR last_used_at < now() - interval '1 hour')
            FOR NO KEY UPDATE SKIP LOCKED)
    )
    SELECT (SELECT count(*) FROM inserted) AS new,
           (SELECT count(*) FROM inserted WHERE status = 'rejected') AS over_quota,
           ARRAY (SELECT day FROM charged ORDER BY day, user_id) AS days,
           ARRAY (SELECT user_id FROM charged ORDER BY day, user_id) AS users,
           ARRAY (SELECT segments FROM charged ORDER BY day, user_id) AS segments";

async fn write(
    connection: &mut PgConnection,
    batch: &[&ReceivedSms],
    plan: &Plan<'_>,
    validity: Duration,
) -> sqlx::Result<Written> {
    let rows = plan.rows.as_slice();
    let sms: Vec<&ReceivedSms> = rows.iter().map(|row| row.sms).collect();
    let sms = sms.as_slice();
    let (conflicting, conflicts): (Vec<Uuid>, Vec<i32>) = plan.conflicts.iter().unzip();
    sqlx::query_as(WRITE)
        .bind(column(sms, |sms| sms.envelope.message_id))
        .bind(column(sms, |sms| sms.envelope.user_id))
        .bind(column(sms, |sms| sms.envelope.to.as_str()))
        .bind(column(sms, |sms| sms.envelope.from.as_deref()))
        .bind(column(sms, |sms| sms.envelope.body.as_str()))
        .bind(column(sms, |sms| sms.envelope.encoding.as_str()))
        .bind(column(sms, |sms| i32::from(sms.envelope.segments)))
        .bind(column(sms, |sms| sms.envelope.submitted_at))
        .bind(column(sms, |sms| sms.envelope.admission.epoch))
        .bind(column(sms, |sms| sms.envelope.admission.sequence))
        .bind(column(sms, |sms| {
            i64::try_from(sms.envelope.admission.cache_age_ms).unwrap_or(i64::MAX)
        }))
        .bind(column(sms, |sms| sms.trace.traceparent.as_deref()))
        .bind(column(sms, |sms| sms.trace.tracestate.as_deref()))
        .bind(column(sms, |sms| sms.envelope.client_reference.as_deref()))
        .bind(column(sms, |sms| sms.envelope.request_hash.as_deref()))
        .bind(rows.iter().map(|row| row.conflicts).collect::<Vec<i32>>())
        .bind(column(sms, |sms| sms.envelope.expires_at))
        .bind(rows.iter().map(refusal).collect::<Vec<_>>())
        .bind(validity.as_secs_f64())
        .bind(conflicting)
        .bind(conflicts)
        .bind(used_keys(batch))
        .fetch_one(connection)
        .await
}

fn refusal(row: &NewRow<'_>) -> Option<&'static str> {
    row.over_quota.then_some(ErrorCode::QuotaExceeded.as_str())
}

/// The keys that the batch was sent with, each once.
fn used_keys(batch: &[&ReceivedSms]) -> Vec<Vec<u8>> {
    let keys = batch.iter().filter_map(|sms| sms.envelope.key_digest);
    let keys: HashSet<_> = keys.collect();
    keys.iter()
        .map(|digest| digest.as_bytes().to_vec())
        .collect()
}

fn column<'a, T>(batch: &[&'a ReceivedSms], value: impl Fn(&'a ReceivedSms) -> T) -> Vec<T> {
    batch.iter().map(|sms| value(sms)).collect()
}

fn days(accounts: &[Account]) -> Vec<Date> {
    accounts.iter().map(|(day, _)| *day).collect()
}

fn users(accounts: &[Account]) -> Vec<UserId> {
    accounts.iter().map(|(_, user_id)| *user_id).collect()
}
