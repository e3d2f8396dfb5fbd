//! The log of every change: who, what, before and after. Triggers write it in the transaction of the change (see
//! `migrations/0003_admin.sql` and `0009_trigger_plans.sql`); here it is read.

use serde::Serialize;
use sqlx::types::Json;
use sqlx::{PgPool, Postgres, QueryBuilder};
use time::OffsetDateTime;
use utoipa::ToSchema;
use wire_contract::UserId;

/// Entries in one page.
pub const MAX_PAGE: u16 = 1000;

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
