//! What became of SMS, as it is told: to the admin, and to the user whose they are.

use serde::Serialize;
use sqlx::{PgPool, Postgres, QueryBuilder};
use time::OffsetDateTime;
use tokio::task::JoinError;
use tracing::Instrument;
use uuid::Uuid;
use wire_contract::{Encoding, SmsRecord, SmsStatus as Status, SmsTransition, UserId};

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

/// A row as its owner may see it.
#[derive(sqlx::FromRow)]
struct Row {
    message_id: Uuid,
    status: String,
    recipient: String,
    sender: Option<String>,
    encoding: String,
    segments: i16,
    client_reference: Option<String>,
    submitted_at: OffsetDateTime,
    expires_at: OffsetDateTime,
    error_code: Option<String>,
    idempotency_conflicts: i32,
    status_changed_at: OffsetDateTime,
    history: sqlx::types::Json<Vec<SmsTransition>>,
}

impl TryFrom<Row> for SmsRecord {
    type Error = anyhow::Error;

    fn try_from(row: Row) -> anyhow::Result<Self> {
        let status = row.status.parse()?;
        let encoding = match row.encoding.as_str() {
            "gsm7" => Encoding::Gsm7,
            "ucs2" => Encoding::Ucs2,
            other => anyhow::bail!("unknown encoding {other}"),
        };
        Ok(Self {
            message_id: row.message_id,
            status,
            to: row.recipient,
            from: row.sender,
            encoding,
            segments: row.segments.unsigned_abs(),
            client_reference: row.client_reference,
            submitted_at: row.submitted_at,
            expires_at: row.expires_at,
            history: history(
                &row.history.0,
                row.submitted_at,
                status,
                row.status_changed_at,
                row.error_code.as_ref(),
            ),
            error_code: row.error_code,
            idempotency_conflicts: row.idempotency_conflicts.unsigned_abs(),
        })
    }
}

/// Begins with the submission, and ends with what the row is now: a release before stored no steps.
fn history(
    stored: &[SmsTransition],
    submitted_at: OffsetDateTime,
    status: Status,
    since: OffsetDateTime,
    error_code: Option<&String>,
) -> Vec<SmsTransition> {
    let queued = SmsTransition {
        status: Status::Queued,
        at: submitted_at,
        error_code: None,
    };
    let mut steps = vec![queued];
    steps.extend_from_slice(stored);
    if steps.last().is_some_and(|last| last.status != status) {
        steps.push(SmsTransition {
            status,
            at: since,
            error_code: error_code.cloned(),
        });
    }
    steps
}

/// An SMS of this user.
pub async fn of_user(
    pool: &PgPool,
    user_id: UserId,
    message_id: Uuid,
) -> Result<Option<SmsRecord>, ReadError> {
    let row: Option<Row> = sqlx::query_as(
        // What a release before stored has no expiry of its own.
        "SELECT message_id, status, recipient, sender, encoding, segments, client_reference, submitted_at,
                coalesce(expires_at, submitted_at + interval '1 day') AS expires_at, error_code,
                idempotency_conflicts, status_changed_at, history
         FROM sms_messages WHERE message_id = $1 AND user_id = $2",
    )
    .bind(message_id)
    .bind(user_id)
    .fetch_optional(pool)
    .await?;
    Ok(row.map(SmsRecord::try_from).transpose()?)
}

/// Which SMS of a user to list.
#[derive(Debug, Clone, Copy)]
pub struct Filter {
    /// Only those that are older than this one: by submission, then by id.
    pub before: (OffsetDateTime, Uuid),
    /// Only these.
    pub status: Option<Status>,
    /// Submitted then or later.
    pub from_time: OffsetDateTime,
    /// Submitted before.
    pub to_time: OffsetDateTime,
    /// At most so many.
    pub limit: u16,
}

/// A read that takes longer is given up by the database itself: who asked has gone.
const LIMIT_TIME: &str = "SET LOCAL statement_timeout = '5s'";

/// SMS of a user, the newest first. In a task of its own: a transaction must not be cancelled as it begins.
pub async fn page(
    pool: &PgPool,
    user_id: UserId,
    filter: Filter,
) -> Result<Vec<SmsRecord>, ReadError> {
    let pool = pool.clone();
    let read = async move {
        let mut tx = pool.begin().await?;
        sqlx::query(LIMIT_TIME).execute(&mut *tx).await?;
        let mut query = page_query(user_id, &filter);
        let rows: Vec<Row> = query.build_query_as().fetch_all(&mut *tx).await?;
        tx.commit().await?;
        Ok::<_, sqlx::Error>(rows)
    };
    let rows = tokio::spawn(read.in_current_span()).await??;
    let records = rows.into_iter().map(SmsRecord::try_from);
    Ok(records.collect::<anyhow::Result<_>>()?)
}

/// Only the conditions that are asked for: each has an index for its order.
fn page_query(user_id: UserId, filter: &Filter) -> QueryBuilder<Postgres> {
    let mut query = QueryBuilder::new(
        "SELECT message_id, status, recipient, sender, encoding, segments, client_reference, submitted_at,
                coalesce(expires_at, submitted_at + interval '1 day') AS expires_at, error_code,
                idempotency_conflicts, status_changed_at, history
         FROM sms_messages WHERE user_id = ",
    );
    query.push_bind(user_id);
    if let Some(status) = filter.status {
        query.push(" AND status = ").push_bind(status.as_str());
    }
    query
        .push(" AND (submitted_at, message_id) < (")
        .push_bind(filter.before.0)
        .push(", ")
        .push_bind(filter.before.1)
        .push(") AND submitted_at >= ")
        .push_bind(filter.from_time)
        .push(" AND submitted_at < ")
        .push_bind(filter.to_time)
        .push(" ORDER BY submitted_at DESC, message_id DESC LIMIT ")
        .push_bind(i64::from(filter.limit));
    query
}

/// Why records could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The database.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// A row that no release has written.
    #[error("a row of sms_messages cannot be read: {0}")]
    Row(#[from] anyhow::Error),
    /// It panicked, or the process is stopping.
    #[error("the read was aborted")]
    Aborted(#[from] JoinError),
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_row_without_stored_steps_tells_its_first_and_its_last() {
        let (then, since) = (
            datetime!(2026-01-01 00:00 UTC),
            datetime!(2026-01-01 00:01 UTC),
        );
        let steps = history(
            &[],
            then,
            Status::Failed,
            since,
            Some(&"no_route".to_owned()),
        );
        let told: Vec<_> = steps.iter().map(|step| (step.status, step.at)).collect();
        assert_eq!(told, [(Status::Queued, then), (Status::Failed, since)]);
        assert_eq!(steps[1].error_code.as_deref(), Some("no_route"));
        assert_eq!(history(&[], then, Status::Queued, then, None).len(), 1);
    }
}
