//! Users and their API keys in the database. Replicas learn of each change by trigger and outbox.

mod import;

use std::time::Duration;

use futures_util::future::BoxFuture;
use garde::Validate;
use serde::Serialize;
use service_runtime::trace::TraceContext;
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use tokio::task::JoinError;
use tracing::{Instrument, Span};
use wire_contract::UserId;

pub use import::{ImportedChange, KeyOwners, UserIds};

use crate::keys::{KeyRing, NewKey};

/// Longest time that a replaced key may still be accepted.
pub const MAX_OVERLAP: Duration = Duration::from_hours(30 * 24);
/// Users in one page of a list.
pub const MAX_PAGE: u16 = 1000;

/// A user as people see it: of the key only the prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct User {
    /// Stable primary key, never used twice.
    pub user_id: UserId,
    /// Unique name.
    pub username: String,
    /// Whether sends are accepted.
    pub is_active: bool,
    /// SMS segments a UTC day; 0 means none.
    pub daily_quota: i32,
    /// Grows with every change.
    pub version: i64,
    /// How the current key begins; `None` without a key.
    pub key_prefix: Option<String>,
    /// When it was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it last changed.
    #[serde(with = "time::serde::rfc3339")]
    pub updated_at: OffsetDateTime,
}

/// A page of users in the order of their ids.
#[derive(Debug, Serialize)]
pub struct UserPage {
    /// The users.
    pub users: Vec<User>,
    /// Where the next page begins; `None` after the last.
    pub next_cursor: Option<UserId>,
}

/// A new user with its key: the only answer that ever shows it. No `Debug`.
#[derive(Serialize)]
pub struct CreatedUser {
    #[serde(flatten)]
    user: User,
    api_key: String,
}

impl CreatedUser {
    /// The user and the key that it was created with.
    #[must_use]
    pub fn new(user: User, api_key: &NewKey) -> Self {
        Self {
            user,
            api_key: api_key.expose().to_owned(),
        }
    }
}

/// A user to create.
#[derive(Debug, Clone, Validate)]
pub struct NewUser {
    /// Unique name.
    #[garde(custom(acceptable_username))]
    pub username: String,
    /// Whether sends are accepted.
    #[garde(skip)]
    pub is_active: bool,
    /// SMS segments a UTC day.
    #[garde(custom(acceptable_quota))]
    pub daily_quota: i32,
    /// Its key.
    #[garde(skip)]
    pub api_key: NewKey,
}

impl NewUser {
    /// `is_active` where nothing else is said.
    pub const IS_ACTIVE: bool = true;
    /// `daily_quota` where nothing else is said.
    pub const DAILY_QUOTA: i32 = 1000;
}

/// What to change of a user; `None` stays as it is.
#[derive(Debug, Clone, Default, Validate)]
pub struct UserChanges {
    /// Another unique name.
    #[garde(inner(custom(acceptable_username)))]
    pub username: Option<String>,
    /// Whether sends are accepted.
    #[garde(skip)]
    pub is_active: Option<bool>,
    /// SMS segments a UTC day.
    #[garde(inner(custom(acceptable_quota)))]
    pub daily_quota: Option<i32>,
}

/// Why a user could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// A field is not acceptable.
    #[error("{field}: {message}")]
    Invalid {
        /// The field's name.
        field: String,
        /// What it must be.
        message: String,
    },
    /// Another user has that name.
    #[error("username is taken by another user")]
    UsernameTaken,
    /// A key stands for one user only, and for one thing at a time.
    #[error("api_key is in use already")]
    ApiKeyTaken,
    /// It never was, or was deleted.
    #[error("there is no user {0}")]
    NotFound(UserId),
    /// The database refused, or could not be reached.
    #[error("the database could not do it")]
    Database(#[source] sqlx::Error),
    /// The transaction panicked or the process is stopping.
    #[error("the transaction was aborted")]
    Aborted(#[source] JoinError),
}

impl From<sqlx::Error> for UserError {
    fn from(error: sqlx::Error) -> Self {
        match error
            .as_database_error()
            .and_then(|error| error.constraint())
        {
            Some("users_username_key") => Self::UsernameTaken,
            Some("api_keys_digest_key") => Self::ApiKeyTaken,
            _ => Self::Database(error),
        }
    }
}

impl From<garde::Report> for UserError {
    /// The first of the report; one is enough to act on.
    fn from(report: garde::Report) -> Self {
        let first = report.iter().next();
        let (field, message) = first
            .map(|(path, error)| (path.to_string(), error.message().to_owned()))
            .unwrap_or_default();
        Self::Invalid { field, message }
    }
}

/// 1 to 150 characters, none of them a control character, and no white space around them.
fn acceptable_username<C>(name: &str, _: &C) -> garde::Result {
    let length = name.chars().count();
    if !(1..=150).contains(&length) {
        return Err(garde::Error::new("must have 1 to 150 characters"));
    }
    if name.chars().any(char::is_control) {
        return Err(garde::Error::new("must not contain control characters"));
    }
    if name.trim() != name {
        return Err(garde::Error::new("must not begin or end with white space"));
    }
    Ok(())
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that garde asks for"
)]
fn acceptable_quota<C>(quota: &i32, _: &C) -> garde::Result {
    if *quota < 0 {
        return Err(garde::Error::new("must be from 0 to 2147483647"));
    }
    Ok(())
}

/// A statement about users followed by the columns of [`User`], and what comes after them.
macro_rules! user_sql {
    ($before:literal, $after:literal) => {
        concat!(
            $before,
            " user_id, username, is_active, daily_quota, version, created_at, updated_at,
              (SELECT prefix FROM api_keys
               WHERE api_keys.user_id = users.user_id AND expires_at IS NULL) AS key_prefix ",
            $after
        )
    };
}

/// The users of the database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Users {
    pool: PgPool,
}

impl Users {
    /// Over a pool.
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// Creates a user with its key: one event for the replicas.
    pub async fn create(&self, keys: &KeyRing, user: NewUser) -> Result<User, UserError> {
        user.validate()?;
        let sealed = keys.seal(user.api_key.expose());
        in_transaction(&self.pool, move |tx| {
            Box::pin(async move {
                // The key first (its foreign key is deferred): the user's row then carries it from
                // the start, and no replica sees a user without a key.
                let user_id: UserId = sqlx::query_scalar(
                    "INSERT INTO api_keys (user_id, digest, sealed, prefix)
                     VALUES (nextval(pg_get_serial_sequence('users', 'user_id')), $1, $2, $3)
                     RETURNING user_id",
                )
                .bind(user.api_key.digest().as_bytes().as_slice())
                .bind(sealed)
                .bind(user.api_key.prefix())
                .fetch_one(&mut *tx)
                .await?;
                let created = sqlx::query_as(user_sql!(
                    "INSERT INTO users (user_id, username, is_active, daily_quota)
                     OVERRIDING SYSTEM VALUE VALUES ($1, $2, $3, $4) RETURNING",
                    ""
                ))
                .bind(user_id)
                .bind(user.username)
                .bind(user.is_active)
                .bind(user.daily_quota)
                .fetch_one(&mut *tx)
                .await?;
                Ok(created)
            })
        })
        .await
    }

    /// One user.
    pub async fn get(&self, user_id: UserId) -> Result<User, UserError> {
        sqlx::query_as(user_sql!("SELECT", "FROM users WHERE user_id = $1"))
            .bind(user_id)
            .fetch_optional(&self.pool)
            .await?
            .ok_or(UserError::NotFound(user_id))
    }

    /// Up to `limit` users (1 to [`MAX_PAGE`]) after `cursor`; with `username`, only the one of that name.
    pub async fn list(
        &self,
        cursor: Option<UserId>,
        limit: u16,
        username: Option<&str>,
    ) -> Result<UserPage, UserError> {
        if !(1..=MAX_PAGE).contains(&limit) {
            return Err(UserError::Invalid {
                field: "limit".to_owned(),
                message: format!("must be from 1 to {MAX_PAGE}"),
            });
        }
        let after = cursor.unwrap_or(UserId::MIN);
        // Two statements: an optional condition in one would make its plan a full scan.
        let query = match username {
            Some(name) => sqlx::query_as(user_sql!(
                "SELECT",
                "FROM users WHERE user_id > $1 AND username = $3 ORDER BY user_id LIMIT $2"
            ))
            .bind(after)
            .bind(i64::from(limit) + 1)
            .bind(name.to_owned()),
            None => sqlx::query_as(user_sql!(
                "SELECT",
                "FROM users WHERE user_id > $1 ORDER BY user_id LIMIT $2"
            ))
            .bind(after)
            .bind(i64::from(limit) + 1),
        };
        let mut users: Vec<User> = query.fetch_all(&self.pool).await?;
        // One more was asked for than is shown: it tells whether there is a next page.
        let more = users.len() > usize::from(limit);
        users.truncate(usize::from(limit));
        let next_cursor = users.last().map(|user| user.user_id).filter(|_| more);
        Ok(UserPage { users, next_cursor })
    }

    /// Changes what `changes` names, and returns the user as it is then.
    pub async fn update(&self, user_id: UserId, changes: UserChanges) -> Result<User, UserError> {
        changes.validate()?;
        in_transaction(&self.pool, move |tx| {
            Box::pin(async move {
                sqlx::query_as(user_sql!(
                    "UPDATE users
                     SET username = coalesce($2, username), is_active = coalesce($3, is_active),
                         daily_quota = coalesce($4, daily_quota)
                     WHERE user_id = $1 RETURNING",
                    ""
                ))
                .bind(user_id)
                .bind(changes.username)
                .bind(changes.is_active)
                .bind(changes.daily_quota)
                .fetch_optional(tx)
                .await?
                .ok_or(UserError::NotFound(user_id))
            })
        })
        .await
    }

    /// Deletes a user and its keys.
    pub async fn delete(&self, user_id: UserId) -> Result<(), UserError> {
        in_transaction(&self.pool, move |tx| {
            Box::pin(async move {
                let done = sqlx::query("DELETE FROM users WHERE user_id = $1")
                    .bind(user_id)
                    .execute(tx)
                    .await?;
                match done.rows_affected() {
                    0 => Err(UserError::NotFound(user_id)),
                    _ => Ok(()),
                }
            })
        })
        .await
    }

    /// Gives a user another key. All its other keys are refused from then on; with an overlap (at most
    /// [`MAX_OVERLAP`]) the one replaced is accepted that much longer.
    pub async fn rotate_key(
        &self,
        keys: &KeyRing,
        user_id: UserId,
        key: NewKey,
        overlap: Option<Duration>,
    ) -> Result<User, UserError> {
        let overlap = overlap.unwrap_or_default();
        if overlap > MAX_OVERLAP {
            return Err(UserError::Invalid {
                field: "overlap_seconds".to_owned(),
                message: format!("must be from 0 to {}", MAX_OVERLAP.as_secs()),
            });
        }
        let sealed = keys.seal(key.expose());
        in_transaction(&self.pool, move |tx| {
            Box::pin(async move {
                // Two rotations at once take turns here.
                sqlx::query("SELECT FROM users WHERE user_id = $1 FOR UPDATE")
                    .bind(user_id)
                    .fetch_optional(&mut *tx)
                    .await?
                    .ok_or(UserError::NotFound(user_id))?;
                let replace = if overlap.is_zero() {
                    sqlx::query(REPLACE_KEY)
                } else {
                    sqlx::query(REPLACE_KEY_WITH_OVERLAP)
                };
                let replace = replace
                    .bind(user_id)
                    .bind(key.digest().as_bytes().as_slice())
                    .bind(sealed)
                    .bind(key.prefix());
                let replace = if overlap.is_zero() {
                    replace
                } else {
                    replace.bind(overlap.as_secs_f64())
                };
                replace.execute(&mut *tx).await?;
                let rotated = sqlx::query_as(user_sql!("SELECT", "FROM users WHERE user_id = $1"))
                    .bind(user_id)
                    .fetch_one(&mut *tx)
                    .await?;
                Ok(rotated)
            })
        })
        .await
    }
}

// In both, counting the replaced rows makes PostgreSQL replace before it inserts (the key may be the same,
// and only one may be current), and one statement makes one event: triggers fire at its end.
const REPLACE_KEY: &str = "WITH replaced AS (DELETE FROM api_keys WHERE user_id = $1 RETURNING 1)
     INSERT INTO api_keys (user_id, digest, sealed, prefix)
     SELECT $1, $2, $3, $4 FROM (SELECT count(*) FROM replaced) AS after_replacing";

const REPLACE_KEY_WITH_OVERLAP: &str = "WITH replaced AS (
         UPDATE api_keys SET expires_at = now() + make_interval(secs => $5)
         WHERE user_id = $1 AND expires_at IS NULL RETURNING 1
     ), expired AS (
         DELETE FROM api_keys WHERE user_id = $1 AND expires_at <= now() RETURNING 1
     )
     INSERT INTO api_keys (user_id, digest, sealed, prefix)
     SELECT $1, $2, $3, $4 FROM
         (SELECT count(*) FROM replaced) AS after_replacing, (SELECT count(*) FROM expired) AS after_expiry";

/// Runs `work` in a transaction, in a task of its own that goes on when the caller goes away: a
/// cancelled `begin` can leave a pooled connection broken (sqlx 0.9). The current trace goes along to the
/// outbox.
async fn in_transaction<T, F>(pool: &PgPool, work: F) -> Result<T, UserError>
where
    T: Send + 'static,
    F: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T, UserError>> + Send + 'static,
{
    let pool = pool.clone();
    let task = async move {
        let mut tx = pool.begin().await?;
        let trace = TraceContext::current();
        if trace.traceparent.is_some() {
            sqlx::query(
                "SELECT set_config('identity_sync.traceparent', $1, true),
                        set_config('identity_sync.tracestate', coalesce($2, ''), true)",
            )
            .bind(trace.traceparent)
            .bind(trace.tracestate)
            .execute(&mut *tx)
            .await?;
        }
        let done = work(&mut tx).await?;
        tx.commit().await?;
        Ok(done)
    };
    tokio::spawn(task.instrument(Span::current()))
        .await
        .map_err(UserError::Aborted)?
}
