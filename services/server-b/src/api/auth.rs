//! The bearer token that guards the admin API.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;
use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use service_runtime::problem::Problem;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::error::ApiError;

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

/// Lets only callers with the token through, to unknown paths neither.
pub async fn require_token(
    State(token): State<AdminToken>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    match bearer(request.headers()) {
        Some(presented) if token.matches(presented) => Ok(next.run(request).await),
        Some(_) => Err(Problem::unauthorized("the bearer token is wrong").into()),
        None => Err(Problem::unauthorized(
            "the admin API needs the header `Authorization: Bearer <token>`",
        )
        .into()),
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
