//! `POST /receipts/v1/{provider}`: delivery receipts of the providers, each with its own secret.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::HeaderMap;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::post;
use axum::{Json, Router};
use serde::Serialize;
use serde_json::Value;
use service_runtime::api::{self, AnsweredAt};
use service_runtime::problem::Problem;
use sqlx::PgPool;
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;

use super::error::ApiError;
use super::problems::{MALFORMED_JSON, PROVIDER_NOT_FOUND, RECEIPT_NOT_UNDERSTOOD};
use super::{json, limit_time};
use crate::sms::metrics;
use crate::sms::providers::Providers;
use crate::sms::receipts::{self, ReceiptRules};
use crate::token;

/// Bytes of a receipt at most.
const MAX_BODY: usize = 64 * 1024;

#[derive(Debug, Clone)]
struct Receipts {
    pool: PgPool,
    providers: Arc<Providers>,
}

/// The answer to a receipt that was understood. Whatever the outcome, it need not be sent again.
#[derive(Debug, Serialize)]
struct Taken {
    /// `applied`, `repeated`, `kept` or `ignored`.
    outcome: &'static str,
}

/// The route.
pub fn router(pool: PgPool, providers: Arc<Providers>) -> Router {
    let layers = ServiceBuilder::new()
        .layer(from_fn_with_state(AnsweredAt::Debug, api::observe))
        .layer(CatchPanicLayer::custom(api::panicked))
        .layer(from_fn(limit_time))
        .layer(DefaultBodyLimit::max(MAX_BODY));
    Router::new()
        .route("/receipts/v1/{provider}", post(take))
        .method_not_allowed_fallback(api::method_not_allowed)
        .layer(layers)
        .with_state(Receipts { pool, providers })
}

async fn take(
    State(state): State<Receipts>,
    provider: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Json<Taken>, ApiError> {
    // What is no text names no provider.
    let provider = provider.map_or_else(|_| String::new(), |Path(provider)| provider);
    let rules = state.providers.receipts.get(&provider);
    if rules.is_none() {
        metrics::receipt("none", "no_provider");
    }
    let rules = rules.ok_or_else(|| {
        Problem::of(
            &PROVIDER_NOT_FOUND,
            "no provider of this name sends receipts",
        )
    })?;
    if !is_allowed(rules, request.headers()) {
        metrics::receipt(&provider, "unauthorized");
        return Err(Problem::unauthorized("the provider's secret is missing or wrong").into());
    }
    let receipt = match read(rules, request).await {
        Ok(receipt) => receipt,
        Err(problem) => {
            metrics::receipt(&provider, "unreadable");
            tracing::warn!(
                provider,
                code = problem.code(),
                "a delivery receipt was not understood"
            );
            return Err(problem.into());
        }
    };
    let done = receipts::receive(&state.pool, &provider, &receipt).await?;
    metrics::receipt(&provider, done.as_str());
    Ok(Json(Taken {
        outcome: done.as_str(),
    }))
}

fn is_allowed(rules: &ReceiptRules, headers: &HeaderMap) -> bool {
    let presented = match &rules.header {
        Some(name) => headers.get(name).and_then(|value| value.to_str().ok()),
        None => token::bearer(headers),
    };
    presented.is_some_and(|presented| rules.secret.matches(presented))
}

async fn read(rules: &ReceiptRules, request: Request) -> Result<receipts::Receipt, Problem> {
    let body = json::read(request, &(), MAX_BODY).await?;
    let body: Value = serde_json::from_slice(&body)
        .map_err(|_| Problem::of(&MALFORMED_JSON, "the body is not JSON"))?;
    rules
        .read(&body)
        .map_err(|error| Problem::of(&RECEIPT_NOT_UNDERSTOOD, format!("the receipt {error}")))
}
