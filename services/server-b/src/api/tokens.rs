//! `/admin/v1/tokens`: who may call this API besides the holder of the configured token.

use axum::Json;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use service_runtime::problem::Problem;
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::error::ApiError;
use super::json::JsonBody;
use super::openapi::{PROBLEM, ProblemBody};
use super::problems::TOKEN_NOT_FOUND;
use crate::tokens::{CreatedToken, Role, Token, Tokens};

/// A token to make.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateToken {
    /// Unique name, by which the audit log knows it; not `bootstrap`.
    #[schema(pattern = "^[A-Za-z0-9._-]{1,64}$")]
    name: String,
    /// What it may do.
    role: Role,
    /// Until when it is accepted; until it is revoked when absent. In the future.
    #[serde(default, with = "time::serde::rfc3339::option")]
    expires_at: Option<OffsetDateTime>,
}

/// The tokens.
#[derive(Serialize, ToSchema)]
pub struct TokenList {
    /// By name.
    tokens: Vec<Token>,
}

/// The tokens of the database; of each only the beginning is known
#[utoipa::path(get, path = "/admin/v1/tokens", tag = "tokens",
    responses((status = 200, description = "The tokens", body = TokenList)))]
pub async fn list(tokens: Tokens) -> Result<Json<TokenList>, ApiError> {
    let tokens = tokens.list().await?;
    Ok(Json(TokenList { tokens }))
}

/// Makes a token, which only this answer shows
#[utoipa::path(post, path = "/admin/v1/tokens", tag = "tokens", request_body = CreateToken,
    responses(
        (status = 201, description = "Created", body = CreatedToken),
        (status = 409, description = "`name_taken`", body = ProblemBody, content_type = PROBLEM),
    ))]
pub async fn create(
    tokens: Tokens,
    JsonBody(body): JsonBody<CreateToken>,
) -> Result<(StatusCode, Json<CreatedToken>), ApiError> {
    let created = tokens.create(body.name, body.role, body.expires_at).await?;
    Ok((StatusCode::CREATED, Json(created)))
}

/// Refuses a token from now on; it stays in the list
#[utoipa::path(delete, path = "/admin/v1/tokens/{name}", tag = "tokens",
    params(("name" = String, Path, description = "As the list has it", pattern = "^[A-Za-z0-9._-]{1,64}$")),
    responses(
        (status = 204, description = "Revoked"),
        (status = 404, description = "`token_not_found`", body = ProblemBody, content_type = PROBLEM),
    ))]
pub async fn revoke(
    tokens: Tokens,
    name: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, ApiError> {
    let unknown = |_| Problem::of(&TOKEN_NOT_FOUND, "there is no token of that name");
    let Path(name) = name.map_err(unknown)?;
    tokens.revoke(name).await?;
    Ok(StatusCode::NO_CONTENT)
}
