//! The admin API, `/admin/v1`: users, their keys, tokens, the audit log, full syncs. JSON in and out, errors as
//! `application/problem+json`, guarded by bearer tokens.

#[expect(unused_qualifications, reason = "written by utoipa's macros")]
mod audit;
mod auth;
mod error;
mod etag;
mod full_syncs;
pub mod internal;
mod json;
mod openapi;
mod problems;
pub mod receipts;
mod replicas;
mod sms;
#[cfg(test)]
mod tests;
mod tokens;
#[expect(unused_qualifications, reason = "written by utoipa's macros")]
mod users;

use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRef, Request};
use axum::http::header;
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use service_runtime::api::{self, AnsweredAt};
use service_runtime::problem::{self, Problem};
use sqlx::PgPool;
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use auth::AdminTokenArgs;

use crate::keys::KeyRing;
use crate::token::Token;

/// A request that waits for a lock longer than this is better given up.
const TIME_LIMIT: Duration = Duration::from_secs(30);

/// What the handlers work with; each takes only its part.
#[derive(Debug, Clone, FromRef)]
pub struct ApiState {
    /// The database.
    pub pool: PgPool,
    /// Seals API keys.
    pub keys: KeyRing,
    /// The token of the configuration; others are in the database.
    pub admin_token: Token,
}

/// The routes, all under `/admin/v1`, and their description made from the code at `/openapi.json`; at `/errors` what they may
/// answer.
///
/// # Errors
/// If the description cannot be written as JSON.
pub fn router(state: ApiState) -> anyhow::Result<Router> {
    let (routes, description) = routes().split_for_parts();
    let description = openapi::complete(description)?;
    // Without a token: it is the same wherever server B runs.
    let described = Router::new()
        .route(
            "/openapi.json",
            get(async || ([(header::CONTENT_TYPE, "application/json")], description)),
        )
        .merge(problem::router("server B", problems::catalogue()))
        .method_not_allowed_fallback(api::method_not_allowed);
    // Of routes alone: on what is no route, 404 and 405 come before a word on parameters.
    let within = ServiceBuilder::new()
        .layer(from_fn_with_state(
            state.pool.clone(),
            replicas::wait_for_replicas,
        ))
        // Inside the wait: a key that is shown once must not be lost to it.
        .layer(from_fn(limit_time))
        .layer(DefaultBodyLimit::max(json::MAX_BODY));
    let around = ServiceBuilder::new()
        .layer(from_fn_with_state(AnsweredAt::Info, api::observe))
        .layer(CatchPanicLayer::custom(api::panicked));
    Ok(routes
        .route_layer(within)
        .fallback(api::not_found)
        .method_not_allowed_fallback(api::method_not_allowed)
        .layer(from_fn_with_state(state.clone(), auth::require_token))
        .with_state(state)
        .merge(described)
        .layer(around))
}

fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::with_openapi(openapi::Description::openapi())
        .routes(routes!(users::list, users::create))
        .routes(routes!(users::get, users::update, users::delete))
        .routes(routes!(users::rotate_key))
        .routes(routes!(users::keys))
        .routes(routes!(users::revoke_key))
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::revoke))
        .routes(routes!(audit::list))
        .routes(routes!(replicas::list))
        .routes(routes!(full_syncs::create))
        .routes(routes!(full_syncs::get))
        .routes(routes!(sms::get))
}

async fn limit_time(request: Request, next: Next) -> Response {
    tokio::time::timeout(TIME_LIMIT, next.run(request))
        .await
        .unwrap_or_else(|_| {
            let detail = "the request took too long; a change may still be made";
            Problem::of(&problems::TIMEOUT, detail)
                .with_retry_after(5)
                .into_response()
        })
}
