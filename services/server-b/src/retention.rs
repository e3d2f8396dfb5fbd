//! Purges what is too old, in small batches. Any number of server Bs may do it side by side: rows that another has
//! locked are skipped, or found gone.

use std::sync::LazyLock;
use std::time::Duration;

use prometheus::{IntCounterVec, register_int_counter_vec};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::sms::receipts;

/// Between two looks at the tables; kept receipts are looked at each time.
const LOOK_EVERY: Duration = Duration::from_mins(1);
/// Between two purges: so many looks.
const PURGE_EVERY_LOOKS: u32 = 10;
/// Rows of one statement, as the statements below say.
const BATCH: u64 = 1000;
/// Leaves the database to others between two batches.
const PAUSE: Duration = Duration::from_millis(20);

static PURGED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "identity_purged_rows_total",
        "Rows deleted because of their age",
        &["table"]
    )
    .expect("each metric has one name and is registered once")
});

/// How old rows become, in days.
#[derive(Debug, Clone, Copy)]
pub struct Ages {
    /// SMS at their end, and what users have used; 0 keeps them.
    pub sms: i32,
    /// Entries of the log of changes.
    pub audit_log: i32,
}

/// A table and the statement that deletes a batch of it; `$1` are the days.
struct Purge {
    table: &'static str,
    sql: &'static str,
}

/// What is at its end: an SMS that still waits is never too old, it expires first.
const SMS: [Purge; 2] = [
    Purge {
        table: "sms_messages",
        sql: "DELETE FROM sms_messages WHERE message_id IN (
                  SELECT message_id FROM sms_messages
                  WHERE status NOT IN ('queued', 'sending')
                    AND status_changed_at < now() - make_interval(days => $1)
                  ORDER BY status_changed_at LIMIT 1000 FOR UPDATE SKIP LOCKED)",
    },
    Purge {
        table: "sms_usage",
        sql: "DELETE FROM sms_usage WHERE (day, user_id) IN (
                  SELECT day, user_id FROM sms_usage
                  -- An SMS may wait for 30 days, and is charged to the day of its submission when it is stored.
                  WHERE day < (now() AT TIME ZONE 'UTC')::date - greatest($1, 32)
                  ORDER BY day LIMIT 1000 FOR UPDATE SKIP LOCKED)",
    },
];

/// With ages of their own.
const OTHERS: [Purge; 4] = [
    Purge {
        table: "audit_log",
        // The oldest by number first, whatever their age: to look for old ones would read the whole table.
        sql: "DELETE FROM audit_log WHERE audit_id IN (
                  SELECT audit_id FROM (SELECT audit_id, at FROM audit_log ORDER BY audit_id LIMIT 1000) AS first
                  WHERE at < now() - make_interval(days => $1))",
    },
    Purge {
        table: "syncs",
        sql: "DELETE FROM syncs WHERE sync_id IN (
                  SELECT sync_id FROM syncs
                  WHERE finished_at < now() - make_interval(days => $1) LIMIT 1000 FOR UPDATE SKIP LOCKED)",
    },
    Purge {
        table: "replicas",
        sql: "DELETE FROM replicas WHERE instance IN (
                  SELECT instance FROM replicas
                  WHERE received_at < now() - make_interval(days => $1, secs => fail_closed_after_ms / 1000.0)
                  LIMIT 1000 FOR UPDATE SKIP LOCKED)",
    },
    Purge {
        table: "revocations",
        sql: "DELETE FROM revocations WHERE user_id IN (
                  SELECT user_id FROM revocations WHERE revoked_at < now() - make_interval(days => $1)
                  ORDER BY revoked_at LIMIT 1000 FOR UPDATE SKIP LOCKED)",
    },
];
/// Days after which a full sync that has ended is forgotten.
const SYNCS_DAYS: i32 = 30;
/// Days, beyond its lease, after which a replica that does not report is forgotten.
const REPLICAS_DAYS: i32 = 1;
/// Days for which it is known when a user lost the right to send: no SMS waits for so long.
const REVOCATIONS_DAYS: i32 = 30;

/// Makes the series known from the start.
pub fn register_metrics() {
    for purge in SMS.iter().chain(&OTHERS) {
        PURGED.with_label_values(&[purge.table]);
    }
}

/// Purges until `shutdown`.
///
/// # Errors
/// None: what failed is tried again.
pub async fn run(pool: PgPool, ages: Ages, shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut looks = 0;
    loop {
        let work = async {
            if looks % PURGE_EVERY_LOOKS == 0 {
                purge_all(&pool, ages).await?;
            }
            receipts::settle_all(&pool).await?;
            receipts::give_up(&pool).await
        };
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            done = work => if let Err(error) = done {
                tracing::warn!(error = error.to_string(), "old rows not purged");
            },
        }
        looks = looks.wrapping_add(1);
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// Purges once.
///
/// # Errors
/// When the database fails: what was purged before is gone.
pub async fn purge_all(pool: &PgPool, ages: Ages) -> sqlx::Result<()> {
    if ages.sms > 0 {
        for what in &SMS {
            purge(pool, what, ages.sms).await?;
        }
    }
    let [audit_log, syncs, replicas, revocations] = &OTHERS;
    purge(pool, audit_log, ages.audit_log).await?;
    purge(pool, syncs, SYNCS_DAYS).await?;
    purge(pool, replicas, REPLICAS_DAYS).await?;
    purge(pool, revocations, REVOCATIONS_DAYS).await
}

async fn purge(pool: &PgPool, what: &Purge, days: i32) -> sqlx::Result<()> {
    let mut all = 0;
    loop {
        let deleted = sqlx::query(what.sql).bind(days).execute(pool).await?;
        let deleted = deleted.rows_affected();
        PURGED.with_label_values(&[what.table]).inc_by(deleted);
        all += deleted;
        if deleted < BATCH {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    if all > 0 {
        tracing::info!(table = what.table, rows = all, "old rows purged");
    }
    Ok(())
}
