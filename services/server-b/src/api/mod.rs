//! The admin API, `/admin/v1`: users, their keys, full syncs. JSON in and out, errors as
//! `application/problem+json`, guarded by a bearer token.

mod auth;
mod error;
mod etag;
mod full_syncs;
pub mod internal;
mod json;
pub mod receipts;
mod replicas;
mod sms;
#[cfg(test)]
mod tests;
mod users;

use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRef, Request};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use service_runtime::api::{self, AnsweredAt};
use service_runtime::problem::Problem;
use sqlx::PgPool;
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;

pub use auth::{AdminToken, AdminTokenArgs};

use crate::keys::KeyRing;
use crate::users::Users;

/// A request that waits for a lock longer than this is better given up.
const TIME_LIMIT: Duration = Duration::from_secs(30);

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
        .layer(from_fn_with_state(AnsweredAt::Info, api::observe))
        .layer(CatchPanicLayer::custom(api::panicked))
        .layer(from_fn_with_state(
            state.admin_token.clone(),
            auth::require_token,
        ))
        .layer(from_fn_with_state(
            state.pool.clone(),
            replicas::wait_for_replicas,
        ))
        // Inside the wait: a key that is shown once must not be lost to it.
        .layer(from_fn(limit_time))
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
        .route("/admin/v1/replicas", get(replicas::list))
        .route("/admin/v1/full-syncs", post(full_syncs::create))
        .route("/admin/v1/full-syncs/{sync_id}", get(full_syncs::get))
        .route("/admin/v1/sms/{message_id}", get(sms::get))
        .fallback(api::not_found)
        .method_not_allowed_fallback(api::method_not_allowed)
        .layer(layers)
        .with_state(state)
}

async fn limit_time(request: Request, next: Next) -> Response {
    tokio::time::timeout(TIME_LIMIT, next.run(request))
        .await
        .unwrap_or_else(|_| {
            let detail = "the request took too long; a change may still be made";
            Problem::unavailable("timeout", detail, 5).into_response()
        })
}
