//! The bearer tokens that guard the admin API: that of the configuration, and those of the database.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method};
use axum::middleware::Next;
use axum::response::Response;
use clap::Args;
use secrecy::SecretString;
use service_runtime::problem::Problem;
use sqlx::PgPool;

use super::ApiState;
use super::error::ApiError;
use super::problems::{FORBIDDEN, TIMEOUT};
use crate::actor::Actor;
use crate::token::{Token, bearer};
use crate::tokens::{self, Role, Tokens};
use crate::users::Users;

/// A token that is not found by then may be asked for again.
const LOOK_UP_WITHIN: Duration = Duration::from_secs(5);

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
    pub fn token(&self) -> anyhow::Result<Token> {
        let (inline, file) = (self.admin_token.as_ref(), self.admin_token_file.as_deref());
        Token::configured("ADMIN_TOKEN", inline, file)?
            .context("ADMIN_TOKEN is not set (nor ADMIN_TOKEN_FILE): it guards the admin API")
    }
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
    State(bootstrap): State<Token>,
    State(pool): State<PgPool>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let caller = identify(&bootstrap, &pool, request.headers());
    // The time limit of the handlers begins behind this.
    let caller = tokio::time::timeout(LOOK_UP_WITHIN, caller)
        .await
        .map_err(|_| {
            let detail = "the token could not be looked up in time";
            Problem::of(&TIMEOUT, detail).with_retry_after(5)
        })??;
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if caller.role == Role::Reader && !reads {
        let detail = "the token has the role `reader`, which may change nothing";
        return Err(Problem::of(&FORBIDDEN, detail).into());
    }
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

/// Asks the database each time, unless it is the token of the configuration: a revoked token stops at once, and the admin
/// API is no hot path.
async fn identify(
    bootstrap: &Token,
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
