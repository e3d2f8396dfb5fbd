//! The public SMS API.
//!
//! ```text
//! middleware (task, span and metrics, panics, limits) → auth::get_client_context → send::send → publish
//!                                                                              └→ status::{one, list}
//! ```
//! Every error is `application/problem+json` (RFC 9457); `problems` lists them, `docs` describes it all.

pub mod auth;
mod docs;
mod idempotency;
mod middleware;
#[cfg(feature = "no-auth")]
mod no_auth;
#[expect(missing_docs, reason = "each entry says what it is")]
pub mod problems;
pub mod publish;
mod send;
mod sms;
#[expect(unused_qualifications, reason = "written by utoipa's macros")]
mod status;
mod text;

use axum::extract::{DefaultBodyLimit, FromRef};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use service_runtime::amqp::Publisher;
use service_runtime::api::{self, AnsweredAt};
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use auth::ClientContext;
pub use idempotency::Remembered;
pub use publish::{publish_sms_message, publisher};
pub use text::measure;

use crate::cache::UserCache;
use crate::rates::UserRates;
use crate::server_b::ServerB;
use crate::usage::Usage;
#[cfg(not(feature = "no-auth"))]
use auth::get_client_context as authenticate;
use middleware::Limits;
#[cfg(feature = "no-auth")]
use no_auth::let_in as authenticate;

/// Route of the send endpoint (requirement 3.2).
const SEND_PATH: &str = "/api/v1/sms/send";

/// What the handlers need; each takes only its slice.
#[derive(Clone, FromRef)]
pub struct ApiState {
    /// Who may send.
    pub cache: UserCache,
    /// Where accepted SMS go (see [`publisher()`]).
    pub publisher: Publisher,
    /// How often each may ask.
    pub rates: UserRates,
    /// What each has used of its quota.
    pub usage: Usage,
    /// Requests with an idempotency key.
    pub remembered: Remembered,
    /// Who knows what became of SMS.
    pub server_b: ServerB,
}

/// The routes of the API, and what describes them.
///
/// # Errors
/// If the description cannot be written as JSON.
pub fn router(state: ApiState) -> anyhow::Result<Router> {
    let (authenticated, document) = OpenApiRouter::with_openapi(docs::Description::openapi())
        .routes(routes!(send::send))
        .routes(routes!(status::one))
        .routes(routes!(status::list))
        .split_for_parts();
    let routes = authenticated
        .layer(DefaultBodyLimit::max(sms::MAX_BODY_BYTES))
        .route_layer(from_fn_with_state(state.clone(), authenticate))
        .route("/", get(banner))
        .merge(docs::router(&document)?)
        .with_state(state);
    Ok(guarded(routes, Limits::default()))
}

/// Puts what every request passes through around the routes.
fn guarded(routes: Router, limits: Limits) -> Router {
    routes
        .fallback(api::not_found)
        .method_not_allowed_fallback(api::method_not_allowed)
        .layer(
            ServiceBuilder::new()
                .layer(from_fn(middleware::detach))
                .layer(from_fn_with_state(AnsweredAt::Debug, api::observe))
                .layer(from_fn(middleware::count_refusals))
                .layer(CatchPanicLayer::custom(api::panicked))
                .layer(from_fn_with_state(limits, middleware::limit)),
        )
}

async fn banner() -> Json<Value> {
    Json(json!({"service": "server-a", "version": env!("CARGO_PKG_VERSION")}))
}

#[cfg(test)]
mod tests;
