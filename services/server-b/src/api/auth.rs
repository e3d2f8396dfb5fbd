//! The bearer tokens that guard the admin API: that of the configuration, and those of the database.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use service_runtime::problem::Problem;
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use subtle::ConstantTimeEq;

use super::ApiState;
use super::error::ApiError;
use crate::actor::Actor;
use crate::tokens::{self, Role, Tokens};
use crate::users::Users;

/// Characters of the token at least.
const MIN_LENGTH: usize = 16;

/// The token of the admin API.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Admin API")]
pub struct AdminTokenArgs {
    /// Bearer token of the admin API, at least 16 characters; one of this and the file is needed
    #[arg(
        long,
        env = "ADMIN_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN"
    )]
    pub admin_token: Option<SecretString>,

    /// File that holds the bearer token of the admin API
    #[arg(long, env = "ADMIN_TOKEN_FILE", value_name = "FILE")]
    pub admin_token_file: Option<PathBuf>,
}

impl AdminTokenArgs {
    /// Reads the token.
    ///
    /// # Errors
    /// If there is none, there are two, or it is too short to be a secret.
    pub fn token(&self) -> anyhow::Result<AdminToken> {
        let inline = self.admin_token.as_ref().map(ExposeSecret::expose_secret);
        let file = self.admin_token_file.as_ref();
        let token = match (
            inline.filter(|token| !token.is_empty()),
            file.filter(|path| !path.as_os_str().is_empty()),
        ) {
            (Some(_), Some(_)) => bail!("ADMIN_TOKEN and ADMIN_TOKEN_FILE are both set: set one"),
            (Some(token), None) => SecretString::from(token),
            (None, Some(path)) => std::fs::read_to_string(path)
                .with_context(|| format!("ADMIN_TOKEN_FILE: cannot read {}", path.display()))?
                .into(),
            (None, None) => {
                bail!("ADMIN_TOKEN is not set (nor ADMIN_TOKEN_FILE): it guards the admin API")
            }
        };
        // Files end with a newline that nobody means.
        let token = token.expose_secret().trim();
        ensure!(
            token.chars().count() >= MIN_LENGTH,
            "ADMIN_TOKEN is too short: it needs at least {MIN_LENGTH} characters"
        );
        Ok(AdminToken(hash(token)))
    }
}

/// The token, as its SHA-256. `Debug` shows nothing.
#[derive(Clone)]
pub struct AdminToken([u8; 32]);

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminToken(…)")
    }
}

impl AdminToken {
    /// Whether a caller presented it. Hashed first: equal lengths, so that the time taken tells nothing.
    #[must_use]
    pub fn matches(&self, presented: &str) -> bool {
        hash(presented).ct_eq(&self.0).into()
    }
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Who calls.
#[derive(Debug, Clone)]
pub struct Caller {
    /// As the audit log names them.
    pub actor: Actor,
    role: Role,
}

/// Lets only callers with a token through, to unknown paths neither; with that of a reader only requests that read.
pub async fn require_token(
    State(bootstrap): State<AdminToken>,
    State(pool): State<PgPool>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let caller = identify(&bootstrap, &pool, request.headers()).await?;
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if caller.role == Role::Reader && !reads {
        let detail = "the token has the role `reader`, which may change nothing";
        return Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail).into());
    }
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

/// Asks the database each time, unless it is the token of the configuration: a revoked token stops at once, and the admin
/// API is no hot path.
async fn identify(
    bootstrap: &AdminToken,
    pool: &PgPool,
    headers: &HeaderMap,
) -> Result<Caller, ApiError> {
    let Some(presented) = bearer(headers) else {
        let detail = "the admin API needs the header `Authorization: Bearer <token>`";
        return Err(Problem::unauthorized(detail).into());
    };
    if bootstrap.matches(presented) {
        return Ok(Caller {
            actor: Actor::token(tokens::BOOTSTRAP),
            role: Role::Admin,
        });
    }
    let found = tokens::authenticate(pool, presented).await?;
    let (name, role) = found.ok_or_else(|| {
        Problem::unauthorized("the bearer token is wrong, has expired, or was revoked")
    })?;
    Ok(Caller {
        actor: Actor::token(&name),
        role,
    })
}

fn caller(parts: &Parts) -> Result<Caller, Problem> {
    let caller = parts.extensions.get::<Caller>().cloned();
    caller.ok_or_else(|| Problem::internal(&anyhow::anyhow!("a request has no caller")))
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        caller(parts)
    }
}

impl FromRequestParts<ApiState> for Users {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        Ok(Self::new(state.pool.clone(), caller(parts)?.actor))
    }
}

impl FromRequestParts<ApiState> for Tokens {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        Ok(Self::new(state.pool.clone(), caller(parts)?.actor))
    }
}

/// The scheme's name is case-insensitive (RFC 9110, 11.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("Bearer")
        .then_some(token.trim())
}
