//! The API, read-only: `/api/v1/auth-user-references`, described by `/openapi.json`. Errors are
//! `application/problem+json`.

mod problems;
#[expect(unused_qualifications, reason = "written by utoipa's macros")]
mod references;
#[cfg(test)]
mod tests;

use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::extract::Request;
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

/// A request that takes longer is better given up.
const TIME_LIMIT: Duration = Duration::from_secs(15);

#[derive(OpenApi)]
#[openapi(
    info(
        title = "user-service",
        description = "One AuthUserReference for every user that the auth-service has created"
    ),
    components(schemas(problem::openapi::ProblemBody))
)]
struct Description;

/// The routes, and their description made from the code.
///
/// # Errors
/// If the description cannot be written as JSON.
pub fn router(pool: PgPool) -> anyhow::Result<Router> {
    let (routes, description) = OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(references::list))
        .routes(routes!(references::get))
        .split_for_parts();
    let description = description
        .to_json()
        .context("cannot write the OpenAPI description")?;
    let openapi = get(async || ([(header::CONTENT_TYPE, "application/json")], description));
    let layers = ServiceBuilder::new()
        .layer(from_fn_with_state(AnsweredAt::Debug, api::observe))
        .layer(CatchPanicLayer::custom(api::panicked))
        .layer(from_fn(limit_time));
    Ok(routes
        .route("/openapi.json", openapi)
        .merge(problem::router("user-service", problems::catalogue()))
        .fallback(api::not_found)
        .method_not_allowed_fallback(api::method_not_allowed)
        .layer(layers)
        .with_state(pool))
}

async fn limit_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(TIME_LIMIT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::of(&problems::TIMEOUT, "the request took too long")
            .with_retry_after(5)
            .into_response(),
    }
}
