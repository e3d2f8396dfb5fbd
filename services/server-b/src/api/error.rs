//! What goes wrong in the admin API, as problems (RFC 9457).

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use service_runtime::problem::Problem;

use crate::keys::InvalidKey;
use crate::users::UserError;

/// Seconds after which a client may try again when the database could not be reached.
const RETRY_AFTER: u32 = 2;

/// An error answer.
#[derive(Debug)]
pub enum ApiError {
    /// Any but a conflict.
    Problem(Problem),
    /// 409: another user has the value of the field.
    Conflict {
        /// For programs.
        code: &'static str,
        /// The field.
        field: &'static str,
        /// For people.
        detail: String,
    },
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        match self {
            Self::Problem(problem) => problem.into_response(),
            Self::Conflict {
                code,
                field,
                detail,
            } => {
                let status = StatusCode::CONFLICT;
                let body = Json(json!({
                    "status": status.as_u16(), "title": status.canonical_reason(),
                    "detail": detail, "code": code, "field": field,
                }));
                let content_type = [(header::CONTENT_TYPE, "application/problem+json")];
                (status, content_type, body).into_response()
            }
        }
    }
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<InvalidKey> for ApiError {
    fn from(error: InvalidKey) -> Self {
        Problem::invalid_field("api_key", error.to_string()).into()
    }
}

impl From<UserError> for ApiError {
    fn from(error: UserError) -> Self {
        let problem = match error {
            UserError::Invalid { field, message } => Problem::invalid_field(field, message),
            UserError::UsernameTaken => return conflict("username_taken", "username", &error),
            UserError::ApiKeyTaken => return conflict("api_key_taken", "api_key", &error),
            UserError::NotFound(_) => not_found("user_not_found", error.to_string()),
            UserError::Database(error) => return error.into(),
            UserError::Aborted(_) => Problem::internal(&error.into()),
        };
        problem.into()
    }
}

impl From<sqlx::Error> for ApiError {
    fn from(error: sqlx::Error) -> Self {
        if is_unavailable(&error) {
            tracing::warn!(%error, "the database is not available");
            Problem::unavailable(
                "database_unavailable",
                "the database is not available; try again",
                RETRY_AFTER,
            )
        } else {
            Problem::internal(&error.into())
        }
        .into()
    }
}

/// 404.
pub fn not_found(code: &'static str, detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, code, detail)
}

fn conflict(code: &'static str, field: &'static str, error: &UserError) -> ApiError {
    ApiError::Conflict {
        code,
        field,
        detail: error.to_string(),
    }
}

/// Whether the same request may well succeed in a moment.
fn is_unavailable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        // SQLSTATE: connection exceptions, resources, operator intervention (shutdown, start-up),
        // deadlocks; a server that has become a read-only standby; tables that are yet to be made.
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            ["08", "53", "57", "40", "25006", "42P01"]
                .iter()
                .any(|state| code.starts_with(state))
        }),
        _ => false,
    }
}
