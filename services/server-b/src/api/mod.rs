//! The admin API, `/admin/v1`: users, their keys, full syncs. JSON in and out, errors as
//! `application/problem+json`, guarded by a bearer token.

mod auth;
mod error;
mod full_syncs;
mod json;
mod observe;
#[cfg(test)]
mod tests;
mod users;

use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRef};
use axum::http::StatusCode;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};
use service_runtime::problem::Problem;
use sqlx::PgPool;
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;

pub use auth::{AdminToken, AdminTokenArgs};

use crate::keys::KeyRing;
use crate::users::Users;

/// What the handlers work with; each takes only its part.
#[derive(Debug, Clone, FromRef)]
pub struct ApiState {
    /// The database.
    pub pool: PgPool,
    /// Seals API keys.
    pub keys: KeyRing,
    /// Who may call.
    pub admin_token: AdminToken,
}

impl FromRef<ApiState> for Users {
    fn from_ref(state: &ApiState) -> Self {
        Self::new(state.pool.clone())
    }
}

/// The routes, all under `/admin/v1`.
pub fn router(state: ApiState) -> Router {
    let layers = ServiceBuilder::new()
        .layer(from_fn(observe::observe))
        .layer(CatchPanicLayer::custom(observe::panicked))
        .layer(from_fn_with_state(
            state.admin_token.clone(),
            auth::require_token,
        ))
        .layer(DefaultBodyLimit::max(json::MAX_BODY));
    Router::new()
        .route("/admin/v1/users", get(users::list).post(users::create))
        .route(
            "/admin/v1/users/{user_id}",
            get(users::get).patch(users::update).delete(users::delete),
        )
        .route(
            "/admin/v1/users/{user_id}/rotate-key",
            post(users::rotate_key),
        )
        .route("/admin/v1/full-syncs", post(full_syncs::create))
        .route("/admin/v1/full-syncs/{sync_id}", get(full_syncs::get))
        .fallback(async || error::not_found("not_found", "there is nothing at this path"))
        .method_not_allowed_fallback(async || {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "the path does not take this method; the header Allow lists those it does",
            )
        })
        .layer(layers)
        .with_state(state)
}
