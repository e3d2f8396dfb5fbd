//! The log of every change: who, what, before and after. Triggers write it in the transaction of the change (see
//! `migrations/0003_admin.sql`); here it is read, and cut by age.

use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use sqlx::types::Json;
use sqlx::{PgPool, Postgres, QueryBuilder};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;
use wire_contract::UserId;

/// Entries in one page.
pub const MAX_PAGE: u16 = 1000;
/// How often it is looked whether something is old enough.
const PURGE_EVERY: Duration = Duration::from_mins(10);
/// Rows that one statement deletes: a fraction of a second.
const PURGE_BATCH: i64 = 5_000;
/// A statement takes no longer, or the database is away.
const PURGE_TIMEOUT: Duration = Duration::from_secs(30);

/// One change.
#[derive(Debug, Clone, Serialize, ToSchema, sqlx::FromRow)]
pub struct AuditEntry {
    /// Grows with the changes, but those of transactions side by side may come out of turn.
    pub audit_id: i64,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// Who: `token:<name>`, `cli:<user of the operating system>`, or `sql:<role>` for plain SQL.
    pub actor: String,
    /// What: `user.created`, `user.updated`, `user.deleted`, `key.created`, `key.updated`, `key.deleted`, `key.resealed`,
    /// `token.created`, `token.updated`, `token.revoked`, `token.deleted`, `full_sync.requested`.
    pub action: String,
    /// The user that it was done to.
    pub user_id: Option<UserId>,
    /// How it was, without secrets.
    #[schema(value_type = Option<Object>)]
    pub before: Option<Json<serde_json::Value>>,
    /// How it is since, without secrets.
    #[schema(value_type = Option<Object>)]
    pub after: Option<Json<serde_json::Value>>,
    /// The trace in which it was done.
    pub trace_id: Option<String>,
}

/// A page of entries, the newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditPage {
    /// The entries.
    pub entries: Vec<AuditEntry>,
    /// Where the next page begins; `None` after the last.
    pub next_cursor: Option<i64>,
}

/// Which entries are shown; `None` lets every one through.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Those older than this one.
    pub cursor: Option<i64>,
    /// Those of this user.
    pub user_id: Option<UserId>,
    /// Those of this actor.
    pub actor: Option<String>,
    /// Those of this time or later.
    pub from_time: Option<OffsetDateTime>,
    /// Those before this time.
    pub to_time: Option<OffsetDateTime>,
}

/// Up to `limit` entries, the newest first.
pub async fn list(pool: &PgPool, limit: u16, filter: &AuditFilter) -> sqlx::Result<AuditPage> {
    // Only the conditions that are asked for: an optional one would make its plan a full scan.
    let mut query = QueryBuilder::<Postgres>::new(
        "SELECT audit_id, at, actor, action, user_id, before, after, trace_id
         FROM audit_log WHERE audit_id < ",
    );
    query.push_bind(filter.cursor.unwrap_or(i64::MAX));
    if let Some(user_id) = filter.user_id {
        query.push(" AND user_id = ").push_bind(user_id);
    }
    if let Some(actor) = &filter.actor {
        query.push(" AND actor = ").push_bind(actor.clone());
    }
    if let Some(time) = filter.from_time {
        query.push(" AND at >= ").push_bind(time);
    }
    if let Some(time) = filter.to_time {
        query.push(" AND at < ").push_bind(time);
    }
    query.push(" ORDER BY audit_id DESC LIMIT ");
    // One more is asked for than is shown: it tells whether there is a next page.
    query.push_bind(i64::from(limit) + 1);
    let mut entries: Vec<AuditEntry> = query.build_query_as().fetch_all(pool).await?;
    let more = entries.len() > usize::from(limit);
    entries.truncate(usize::from(limit));
    let next_cursor = entries.last().map(|entry| entry.audit_id).filter(|_| more);
    Ok(AuditPage {
        entries,
        next_cursor,
    })
}

/// Deletes what is older than so many days, until `shutdown`. Several servers B do it side by side without harm.
pub async fn run(pool: PgPool, days: u32, shutdown: CancellationToken) -> anyhow::Result<()> {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            purged = purge(&pool, days) => match purged {
                Ok(0) => {}
                Ok(entries) => tracing::info!(entries, days, "old entries of the audit log deleted"),
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "the audit log is not cut");
                }
            },
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(PURGE_EVERY) => {}
        }
    }
}

/// Deletes what is older than so many days, a batch at a time; gives how many entries that were.
pub async fn purge(pool: &PgPool, days: u32) -> anyhow::Result<u64> {
    let mut purged = 0;
    loop {
        // The oldest by number first, whatever their age: to look for old ones would read the whole table.
        let batch = sqlx::query(
            "DELETE FROM audit_log
             WHERE audit_id IN (SELECT audit_id FROM audit_log ORDER BY audit_id LIMIT $1)
               AND at < now() - make_interval(days => $2)",
        )
        .bind(PURGE_BATCH)
        .bind(i32::try_from(days).unwrap_or(i32::MAX))
        .execute(pool);
        let deleted = tokio::time::timeout(PURGE_TIMEOUT, batch)
            .await
            .context("the database does not answer")?
            .context("cannot delete old entries of the audit log")?
            .rows_affected();
        if deleted == 0 {
            return Ok(purged);
        }
        purged += deleted;
    }
}
