//! The statements on `auth_user_references`.

use serde::Serialize;
use service_runtime::database::{StoreError, Traced};
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use utoipa::ToSchema;
use wire_contract::UserId;

/// References of one page at most.
pub const MAX_PAGE: u16 = 1000;

/// What an event says of a user.
#[derive(Clone, PartialEq)]
pub struct NewReference {
    /// The auth-service's id.
    pub user_id: UserId,
    /// Name.
    pub username: String,
    /// Address.
    pub email: String,
    /// When the user was created.
    pub occurred_at: OffsetDateTime,
}

impl std::fmt::Debug for NewReference {
    /// Without name and address: they are personal data and stay out of logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewReference")
            .field("user_id", &self.user_id)
            .finish_non_exhaustive()
    }
}

/// A user of the auth-service.
#[derive(Serialize, sqlx::FromRow, ToSchema)]
pub struct AuthUserReference {
    /// The auth-service's id
    user_id: UserId,
    /// Name at the time of the creation
    username: String,
    /// Address at the time of the creation
    email: String,
    /// When the auth-service created the user
    #[serde(with = "time::serde::rfc3339")]
    occurred_at: OffsetDateTime,
    /// When this reference was stored
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
}

/// A part of the list, in the order of the ids.
#[derive(Serialize, ToSchema)]
pub struct ReferencePage {
    /// The references of this page
    pub auth_user_references: Vec<AuthUserReference>,
    /// `cursor` of the next page; null on the last one
    pub next_cursor: Option<UserId>,
}

/// The columns of a batch, as the statements take them.
struct Columns<'a> {
    user_ids: Vec<UserId>,
    usernames: Vec<&'a str>,
    emails: Vec<&'a str>,
    occurred_at: Vec<OffsetDateTime>,
}

impl<'a> Columns<'a> {
    fn of(batch: &[&'a NewReference]) -> Self {
        Self {
            user_ids: batch.iter().map(|new| new.user_id).collect(),
            usernames: batch.iter().map(|new| new.username.as_str()).collect(),
            emails: batch.iter().map(|new| new.email.as_str()).collect(),
            occurred_at: batch.iter().map(|new| new.occurred_at).collect(),
        }
    }
}

/// What a committed batch came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Rows written.
    pub new: u64,
    /// The users whose row has other data than the batch, one entry an event.
    pub conflicts: Vec<UserId>,
}

/// Inserts a batch, all or nothing. A user that has a row already stays as it is; of several events for one user in the batch
/// the first counts.
pub async fn insert(pool: &PgPool, batch: &[&NewReference]) -> Result<Stored, StoreError> {
    let mut transaction = pool.begin().await?;
    let new = write(&mut transaction, batch)
        .traced("INSERT", "auth_user_references")
        .await?;
    let conflicts = if new < batch.len() as u64 {
        conflicts(&mut transaction, batch).await?
    } else {
        Vec::new()
    };
    transaction.commit().await?;
    Ok(Stored { new, conflicts })
}

async fn write(connection: &mut PgConnection, batch: &[&NewReference]) -> sqlx::Result<u64> {
    let columns = Columns::of(batch);
    let inserted = sqlx::query(
        "INSERT INTO auth_user_references (user_id, username, email, occurred_at)
         SELECT user_id, username, email, occurred_at
         FROM unnest($1::bigint[], $2::text[], $3::text[], $4::timestamptz[])
              WITH ORDINALITY AS event (user_id, username, email, occurred_at, place)
         -- One order for all, so that two replicas with the same users do not deadlock.
         ORDER BY user_id, place
         ON CONFLICT (user_id) DO NOTHING",
    )
    .bind(columns.user_ids)
    .bind(columns.usernames)
    .bind(columns.emails)
    .bind(columns.occurred_at)
    .execute(connection)
    .await?;
    Ok(inserted.rows_affected())
}

/// A statement of its own, after [`write`]: within one, a row that another replica commits meanwhile would block the insert
/// and yet not be seen.
async fn conflicts(
    connection: &mut PgConnection,
    batch: &[&NewReference],
) -> sqlx::Result<Vec<UserId>> {
    let columns = Columns::of(batch);
    sqlx::query_scalar(
        "SELECT user_id
         FROM unnest($1::bigint[], $2::text[], $3::text[], $4::timestamptz[])
              AS event (user_id, username, email, occurred_at)
         JOIN auth_user_references AS stored USING (user_id)
         WHERE (stored.username, stored.email, stored.occurred_at)
               IS DISTINCT FROM (event.username, event.email, event.occurred_at)",
    )
    .bind(columns.user_ids)
    .bind(columns.usernames)
    .bind(columns.emails)
    .bind(columns.occurred_at)
    .fetch_all(connection)
    .await
}

/// One reference.
pub async fn find(pool: &PgPool, user_id: UserId) -> sqlx::Result<Option<AuthUserReference>> {
    sqlx::query_as(
        "SELECT user_id, username, email, occurred_at, created_at
         FROM auth_user_references WHERE user_id = $1",
    )
    .bind(user_id)
    .fetch_optional(pool)
    .await
}

/// The references after `cursor`, `limit` at most.
pub async fn list(
    pool: &PgPool,
    cursor: Option<UserId>,
    limit: u16,
) -> sqlx::Result<ReferencePage> {
    let mut references: Vec<AuthUserReference> = sqlx::query_as(
        "SELECT user_id, username, email, occurred_at, created_at
         FROM auth_user_references
         WHERE $1::bigint IS NULL OR user_id > $1
         ORDER BY user_id LIMIT $2",
    )
    .bind(cursor)
    // One more than asked for tells whether there is a next page.
    .bind(i64::from(limit) + 1)
    .fetch_all(pool)
    .await?;
    let limit = usize::from(limit);
    let more = references.len() > limit;
    references.truncate(limit);
    Ok(ReferencePage {
        next_cursor: references.last().filter(|_| more).map(|last| last.user_id),
        auth_user_references: references,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_and_address_are_not_in_the_debug_form() {
        let new = NewReference {
            user_id: 7,
            username: "canary".to_owned(),
            email: "canary@example.com".to_owned(),
            occurred_at: OffsetDateTime::UNIX_EPOCH,
        };
        assert!(!format!("{new:?}").contains("canary"));
    }
}
