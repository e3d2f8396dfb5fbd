//! The admin server: probes, status, metrics. No secrets, no personal data, and no authentication:
//! it belongs inside the cluster.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::future::BoxFuture;
use prometheus::{Encoder, TextEncoder};
use serde_json::{Value, json};

use crate::metrics;
use crate::readiness::Readiness;

/// What the admin server shows.
#[derive(Clone)]
pub struct Admin {
    readiness: Readiness,
    status: Arc<dyn Fn() -> Value + Send + Sync>,
    on_scrape: Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

impl Admin {
    /// `status` is the body of `/status`; `on_scrape` brings gauges that mirror a size up to date. Once in a process, from
    /// within its runtime.
    pub fn new(
        service: &str,
        readiness: Readiness,
        status: impl Fn() -> Value + Send + Sync + 'static,
        on_scrape: impl Fn() -> BoxFuture<'static, ()> + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        metrics::register(service)?;
        Ok(Self {
            readiness,
            status: Arc::new(status),
            on_scrape: Arc::new(on_scrape),
        })
    }

    /// The routes.
    pub fn router(self) -> Router {
        Router::new()
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .route("/status", get(status))
            .route("/metrics", get(scrape))
            .with_state(self)
    }
}

/// The process runs. Never depends on RabbitMQ, PostgreSQL or another service: restarting this
/// process would not mend them.
async fn livez() -> &'static str {
    "ok\n"
}

async fn readyz(State(admin): State<Admin>) -> Response {
    let pending = admin.readiness.pending();
    if pending.is_empty() {
        (StatusCode::OK, Json(json!({"ready": true}))).into_response()
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            Json(json!({"ready": false, "pending": pending})),
        )
            .into_response()
    }
}

async fn status(State(admin): State<Admin>) -> Json<Value> {
    Json((admin.status)())
}

async fn scrape(State(admin): State<Admin>) -> Response {
    (admin.on_scrape)().await;
    metrics::READY.set(i64::from(admin.readiness.pending().is_empty()));
    let mut body = Vec::new();
    let encoder = TextEncoder::new();
    match encoder.encode(&prometheus::gather(), &mut body) {
        Ok(()) => (
            [(header::CONTENT_TYPE, encoder.format_type().to_owned())],
            body,
        )
            .into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
