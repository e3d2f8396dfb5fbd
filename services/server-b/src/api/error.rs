//! What goes wrong in the admin API, as problems (RFC 9457).

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use service_runtime::database;
use service_runtime::problem::Problem;

use crate::actor::TransactionError;
use crate::keys::InvalidKey;
use crate::tokens::TokenError;
use crate::users::UserError;

/// An error answer.
#[derive(Debug)]
pub struct ApiError(Problem);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.0.into_response()
    }
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl From<InvalidKey> for ApiError {
    fn from(error: InvalidKey) -> Self {
        Self(Problem::invalid_field("api_key", error.to_string()))
    }
}

impl From<UserError> for ApiError {
    fn from(error: UserError) -> Self {
        Self(match error {
            UserError::Invalid { field, message } => Problem::invalid_field(field, message),
            UserError::UsernameTaken => conflict("username_taken", "username", error.to_string()),
            UserError::ApiKeyTaken => conflict("api_key_taken", "api_key", error.to_string()),
            UserError::Changed { .. } => changed(&error),
            UserError::NotFound(_) => not_found("user_not_found", error.to_string()),
            UserError::KeyNotFound(_) => not_found("key_not_found", error.to_string()),
            UserError::Database(error) => database::problem(error),
            UserError::Aborted(_) => Problem::internal(&error.into()),
        })
    }
}

impl From<TokenError> for ApiError {
    fn from(error: TokenError) -> Self {
        Self(match error {
            TokenError::Invalid { field, message } => Problem::invalid_field(field, message),
            TokenError::NameTaken => conflict("name_taken", "name", error.to_string()),
            TokenError::NotFound => not_found("token_not_found", error.to_string()),
            TokenError::Database(error) => database::problem(error),
            TokenError::Aborted(_) => Problem::internal(&error.into()),
        })
    }
}

impl From<TransactionError> for ApiError {
    fn from(error: TransactionError) -> Self {
        Self(match error {
            TransactionError::Database(error) => database::problem(error),
            TransactionError::Aborted(_) => Problem::internal(&error.into()),
        })
    }
}

impl From<sqlx::Error> for ApiError {
    fn from(error: sqlx::Error) -> Self {
        Self(database::problem(error))
    }
}

/// 404.
pub fn not_found(code: &'static str, detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, code, detail)
}

/// 412 (RFC 9110, 15.5.13).
fn changed(error: &UserError) -> Problem {
    let code = "version_changed";
    Problem::new(StatusCode::PRECONDITION_FAILED, code, error.to_string())
}

fn conflict(code: &'static str, field: &'static str, detail: String) -> Problem {
    Problem::new(StatusCode::CONFLICT, code, detail).with_field(field)
}
