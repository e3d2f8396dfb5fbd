//! The public SMS API.
//!
//! ```text
//! middleware (task, span and metrics, panics, limits) → auth::get_client_context → sms::send → publish
//! ```
//! Every error is `application/problem+json` (RFC 9457).

pub mod auth;
mod middleware;
#[cfg(feature = "no-auth")]
mod no_auth;
pub mod publish;
mod sms;
mod text;

use axum::extract::{DefaultBodyLimit, FromRef};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use service_runtime::amqp::Publisher;
use service_runtime::api::{self, AnsweredAt};
use tower_http::catch_panic::CatchPanicLayer;

pub use auth::ClientContext;
pub use publish::{publish_sms_message, publisher};
pub use text::measure;

use crate::cache::UserCache;
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
}

/// The routes of the API.
pub fn router(state: ApiState) -> Router {
    let send = post(sms::send)
        .layer(DefaultBodyLimit::max(sms::MAX_BODY_BYTES))
        .route_layer(from_fn_with_state(state.clone(), authenticate));
    let routes = Router::new()
        .route("/", get(banner))
        .route(SEND_PATH, send)
        .with_state(state);
    guarded(routes, Limits::default())
}

/// Puts what every request passes through around the routes.
fn guarded(routes: Router, limits: Limits) -> Router {
    routes
        .fallback(api::not_found)
        .method_not_allowed_fallback(api::method_not_allowed)
        // The last layer is the outermost.
        .layer(from_fn_with_state(limits, middleware::limit))
        .layer(CatchPanicLayer::custom(api::panicked))
        .layer(from_fn(middleware::count_refusals))
        .layer(from_fn_with_state(AnsweredAt::Debug, api::observe))
        .layer(from_fn(middleware::detach))
}

async fn banner() -> Json<Value> {
    Json(json!({"service": "server-a", "version": env!("CARGO_PKG_VERSION")}))
}

#[cfg(test)]
mod tests;
