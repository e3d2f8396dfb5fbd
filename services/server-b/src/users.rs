//! Users and their API keys in the database. Replicas learn of each change by trigger and outbox.

mod filter;
mod import;
mod keys;
mod store;

use std::time::Duration;

use garde::Validate;
use serde::Serialize;
use time::OffsetDateTime;
use tokio::task::JoinError;
use utoipa::ToSchema;
use wire_contract::UserId;

pub use filter::UserFilter;
pub use import::{Applied, Conflict, Import, ImportRow, ImportedKey, OnConflict};
pub use keys::UserKey;
pub use store::Users;

use crate::keys::NewKey;

/// Longest time that a replaced key may still be accepted.
pub const MAX_OVERLAP: Duration = Duration::from_hours(30 * 24);
/// The database refuses later ones.
const LAST_EXPIRY: OffsetDateTime = time::macros::datetime!(9999-01-01 00:00 UTC);
/// Users in one page of a list.
pub const MAX_PAGE: u16 = 1000;

/// A user as people see it: of the key only the prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema, sqlx::FromRow)]
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
    /// How the current key begins, or that of the keys with an expiry that lasts longest; `None` without a key.
    pub key_prefix: Option<String>,
    /// When it was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it last changed.
    #[serde(with = "time::serde::rfc3339")]
    pub updated_at: OffsetDateTime,
}

/// A page of users in the order of their ids.
#[derive(Debug, Serialize, ToSchema)]
pub struct UserPage {
    /// The users.
    pub users: Vec<User>,
    /// Where the next page begins; `None` after the last.
    pub next_cursor: Option<UserId>,
}

/// A new user with its key: the only answer that ever shows it.
// No `Debug`.
#[derive(Serialize, ToSchema)]
pub struct CreatedUser {
    #[serde(flatten)]
    user: User,
    /// The key, never to be seen again.
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
    /// Until when the key is accepted; without, until it is replaced.
    #[garde(inner(custom(acceptable_expiry)))]
    pub key_expires_at: Option<OffsetDateTime>,
}

impl NewUser {
    /// `is_active` where nothing else is said.
    pub const IS_ACTIVE: bool = true;
    /// `daily_quota` where nothing else is said.
    pub const DAILY_QUOTA: i32 = 1000;
}

/// Another key for a user.
#[derive(Debug, Clone, Validate)]
pub struct Rotation {
    /// The key.
    #[garde(skip)]
    pub api_key: NewKey,
    /// How long those that it replaces are accepted yet; at most [`MAX_OVERLAP`].
    #[garde(custom(acceptable_overlap))]
    pub overlap_seconds: u64,
    /// Until when the key is accepted; without, until it is replaced.
    #[garde(inner(custom(acceptable_expiry)))]
    pub key_expires_at: Option<OffsetDateTime>,
}

/// Versions, one of which a user must have to be changed; `None` for any.
pub type IfVersion = Option<Vec<i64>>;

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
    /// It has another version than the change was meant for.
    #[error("the user has changed: it is at version {version} now; read it again")]
    Changed {
        /// The version that it has.
        version: i64,
    },
    /// It never was, or was deleted.
    #[error("there is no user {0}")]
    NotFound(UserId),
    /// The user has no such key.
    #[error("the user has no key {0}")]
    KeyNotFound(i64),
    /// The database refused, or could not be reached.
    #[error("the database could not do it: {0}")]
    Database(sqlx::Error),
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

impl From<JoinError> for UserError {
    fn from(error: JoinError) -> Self {
        Self::Aborted(error)
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

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that garde asks for"
)]
fn acceptable_overlap<C>(seconds: &u64, _: &C) -> garde::Result {
    let longest = MAX_OVERLAP.as_secs();
    if *seconds > longest {
        return Err(garde::Error::new(format!("must be from 0 to {longest}")));
    }
    Ok(())
}

/// What is over is not worth a key, and what RFC 3339 cannot write would not reach a replica.
fn acceptable_expiry<C>(at: &OffsetDateTime, _: &C) -> garde::Result {
    if *at <= OffsetDateTime::now_utc() {
        return Err(garde::Error::new("must be in the future"));
    }
    if *at >= LAST_EXPIRY {
        return Err(garde::Error::new("must be before the year 9999"));
    }
    Ok(())
}
