//! What goes wrong in the admin API, as problems (RFC 9457).

use axum::response::{IntoResponse, Response};
use service_runtime::database;
use service_runtime::problem::Problem;

use super::problems::{
    API_KEY_TAKEN, KEY_NOT_FOUND, NAME_TAKEN, ProblemType, TOKEN_NOT_FOUND, USER_NOT_FOUND,
    USERNAME_TAKEN, VERSION_CHANGED,
};
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
            UserError::UsernameTaken => conflict(&USERNAME_TAKEN, "username", &error),
            UserError::ApiKeyTaken => conflict(&API_KEY_TAKEN, "api_key", &error),
            UserError::Changed { .. } => Problem::of(&VERSION_CHANGED, error.to_string()),
            UserError::NotFound(_) => Problem::of(&USER_NOT_FOUND, error.to_string()),
            UserError::KeyNotFound(_) => Problem::of(&KEY_NOT_FOUND, error.to_string()),
            UserError::Database(error) => database::problem(error),
            UserError::Aborted(_) => Problem::internal(&error.into()),
        })
    }
}

impl From<TokenError> for ApiError {
    fn from(error: TokenError) -> Self {
        Self(match error {
            TokenError::Invalid { field, message } => Problem::invalid_field(field, message),
            TokenError::NameTaken => conflict(&NAME_TAKEN, "name", &error),
            TokenError::NotFound => Problem::of(&TOKEN_NOT_FOUND, error.to_string()),
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

fn conflict(kind: &'static ProblemType, field: &'static str, error: &impl ToString) -> Problem {
    Problem::of(kind, error.to_string()).with_field(field)
}
