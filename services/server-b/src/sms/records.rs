//! What became of SMS, as it is told: to the admin, and to the user whose they are.

use serde::Serialize;
use sqlx::PgPool;
use time::OffsetDateTime;
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

/// SMS of a user, the newest first.
pub async fn page(
    pool: &PgPool,
    user_id: UserId,
    filter: Filter,
) -> Result<Vec<SmsRecord>, ReadError> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT message_id, status, recipient, sender, encoding, segments, client_reference, submitted_at,
                coalesce(expires_at, submitted_at + interval '1 day') AS expires_at, error_code,
                idempotency_conflicts, status_changed_at, history
         FROM sms_messages
         WHERE user_id = $1 AND (submitted_at, message_id) < ($2, $3)
           AND submitted_at >= $4 AND submitted_at < $5 AND ($6::text IS NULL OR status = $6)
         ORDER BY submitted_at DESC, message_id DESC
         LIMIT $7",
    )
    .bind(user_id)
    .bind(filter.before.0)
    .bind(filter.before.1)
    .bind(filter.from_time)
    .bind(filter.to_time)
    .bind(filter.status.map(Status::as_str))
    .bind(i64::from(filter.limit))
    .fetch_all(pool)
    .await?;
    let records = rows.into_iter().map(SmsRecord::try_from);
    Ok(records.collect::<anyhow::Result<_>>()?)
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
