//! Tokens of the admin API: kept as their SHA-256, shown once, and asked for in the database at each request, so that a
//! revoked one stops with the next.

use std::fmt;

use clap::ValueEnum;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use time::OffsetDateTime;
use tokio::task::JoinError;
use utoipa::ToSchema;

use crate::actor::{Actor, in_transaction};
use crate::keys;

/// The name of the token that the configuration gives.
pub const BOOTSTRAP: &str = "bootstrap";
/// What every token begins with, so that scanners for leaked secrets can find one.
const TOKEN_PREFIX: &str = "ist_";
/// Characters of a token that are shown in lists.
const SHOWN: usize = 8;
/// Tokens that a list shows at most.
const MAX_LISTED: i64 = 1000;

/// A statement about tokens with the columns of [`Token`].
macro_rules! token_sql {
    ($before:literal, $after:literal) => {
        concat!(
            $before,
            " name, role, prefix, created_at, expires_at, last_used_at, revoked_at ",
            $after
        )
    };
}

/// What a token may do.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum, ToSchema, sqlx::Type,
)]
#[serde(rename_all = "lowercase")]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum Role {
    /// Everything
    Admin,
    /// Read, and change nothing
    Reader,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Admin => "admin",
            Self::Reader => "reader",
        })
    }
}

/// A token as people see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema, sqlx::FromRow)]
pub struct Token {
    /// Unique name, by which the audit log knows it; never used twice.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// How it begins.
    pub prefix: String,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// Until when it is accepted; `None` until it is revoked.
    #[serde(with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    /// When it was last used, to the minute.
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_used_at: Option<OffsetDateTime>,
    /// Since when it is refused.
    #[serde(with = "time::serde::rfc3339::option")]
    pub revoked_at: Option<OffsetDateTime>,
}

/// A new token: the only answer that ever shows it.
// No `Debug`.
#[derive(Serialize, ToSchema)]
pub struct CreatedToken {
    /// What is known of it.
    #[serde(flatten)]
    pub token: Token,
    /// The token, never to be seen again.
    pub secret: String,
}

/// Why tokens could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// A field is not acceptable.
    #[error("{field}: {message}")]
    Invalid {
        /// The field's name.
        field: &'static str,
        /// What it must be.
        message: &'static str,
    },
    /// Another token has that name, or had it.
    #[error("name is that of another token; a revoked one keeps it")]
    NameTaken,
    /// There never was one of that name.
    #[error("there is no token of that name")]
    NotFound,
    /// The database refused, or could not be reached.
    #[error("the database could not do it: {0}")]
    Database(sqlx::Error),
    /// The transaction panicked or the process is stopping.
    #[error("the transaction was aborted")]
    Aborted(#[from] JoinError),
}

impl From<sqlx::Error> for TokenError {
    fn from(error: sqlx::Error) -> Self {
        let constraint = error.as_database_error().and_then(|it| it.constraint());
        if constraint == Some("admin_tokens_name_key") {
            return Self::NameTaken;
        }
        Self::Database(error)
    }
}

/// The tokens of the database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tokens {
    pool: PgPool,
    actor: Actor,
}

impl Tokens {
    /// Over a pool; changes are logged as the actor's.
    #[must_use]
    pub fn new(pool: PgPool, actor: Actor) -> Self {
        Self { pool, actor }
    }

    /// Makes a token.
    pub async fn create(
        &self,
        name: String,
        role: Role,
        expires_at: Option<OffsetDateTime>,
    ) -> Result<CreatedToken, TokenError> {
        check(&name, expires_at)?;
        let secret = keys::draw(TOKEN_PREFIX);
        let (hash, prefix) = (hash(secret.expose_secret()), shown(&secret));
        let token = in_transaction(&self.pool, &self.actor, move |tx| {
            Box::pin(async move {
                let token: Token = sqlx::query_as(token_sql!(
                    "INSERT INTO admin_tokens (name, role, expires_at, hash, prefix)
                     VALUES ($1, $2, $3, $4, $5) RETURNING",
                    ""
                ))
                .bind(name)
                .bind(role)
                .bind(expires_at)
                .bind(hash)
                .bind(prefix)
                .fetch_one(tx)
                .await?;
                Ok::<_, TokenError>(token)
            })
        })
        .await?;
        Ok(CreatedToken {
            token,
            secret: secret.expose_secret().to_owned(),
        })
    }

    /// All tokens by name, up to a thousand; the revoked ones, too.
    pub async fn list(&self) -> Result<Vec<Token>, TokenError> {
        let query = sqlx::query_as(token_sql!(
            "SELECT",
            "FROM admin_tokens ORDER BY name LIMIT $1"
        ));
        Ok(query.bind(MAX_LISTED).fetch_all(&self.pool).await?)
    }

    /// Refuses a token from now on. One that is revoked already stays so since then.
    pub async fn revoke(&self, name: String) -> Result<Token, TokenError> {
        if !is_name(&name) {
            return Err(TokenError::NotFound);
        }
        in_transaction(&self.pool, &self.actor, move |tx| {
            Box::pin(async move {
                // Not again: the audit log tells of each write.
                sqlx::query(
                    "UPDATE admin_tokens SET revoked_at = now() WHERE name = $1 AND revoked_at IS NULL",
                )
                .bind(&name)
                .execute(&mut *tx)
                .await?;
                let revoked: Option<Token> = sqlx::query_as(token_sql!(
                    "SELECT",
                    "FROM admin_tokens WHERE name = $1"
                ))
                .bind(&name)
                .fetch_optional(tx)
                .await?;
                revoked.ok_or(TokenError::NotFound)
            })
        })
        .await
    }
}

/// The token that was presented: its name and role, if it is accepted now. What no token looks like costs no query.
pub async fn authenticate(pool: &PgPool, presented: &str) -> sqlx::Result<Option<(String, Role)>> {
    if !keys::is_as_drawn(presented, TOKEN_PREFIX) {
        return Ok(None);
    }
    // Noted once a minute at most: reading must not write a row each time.
    sqlx::query_as(
        "WITH found AS (
             SELECT token_id, name, role, last_used_at FROM admin_tokens
             WHERE hash = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
         ), noted AS (
             UPDATE admin_tokens SET last_used_at = now() FROM found
             WHERE admin_tokens.token_id = found.token_id
               AND (found.last_used_at IS NULL OR found.last_used_at < now() - interval '1 min')
         )
         SELECT name, role FROM found",
    )
    .bind(hash(presented))
    .fetch_optional(pool)
    .await
}

fn hash(token: &str) -> Vec<u8> {
    Sha256::digest(token.as_bytes()).to_vec()
}

fn shown(secret: &SecretString) -> String {
    secret.expose_secret().chars().take(SHOWN).collect()
}

fn check(name: &str, expires_at: Option<OffsetDateTime>) -> Result<(), TokenError> {
    if !is_name(name) {
        let message = "must be 1 to 64 letters, digits, `.`, `_` or `-`, and not `bootstrap`";
        return Err(TokenError::Invalid {
            field: "name",
            message,
        });
    }
    if let Some(at) = expires_at
        && (at <= OffsetDateTime::now_utc() || at.year() >= 9999)
    {
        let message = "must be in the future and before the year 9999";
        return Err(TokenError::Invalid {
            field: "expires_at",
            message,
        });
    }
    Ok(())
}

/// As the table's constraint has it.
fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name != BOOTSTRAP
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}
