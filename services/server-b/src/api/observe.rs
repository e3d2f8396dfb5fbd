//! A span, a sample and a time limit for every request. No keys, and no queries of URLs.

use std::any::Any;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use prometheus::{HistogramVec, register_histogram_vec};
use service_runtime::problem::Problem;
use service_runtime::trace::TraceContext;
use tracing::{Instrument, Span};
use wire_contract::{HEADER_TRACEPARENT, HEADER_TRACESTATE};

/// A request that waits for a lock longer than this is better given up.
const TIME_LIMIT: Duration = Duration::from_secs(30);
/// Bytes of `tracestate` that are passed on: what W3C Trace Context, 3.3.1.5, asks for.
const MAX_TRACESTATE: usize = 512;
/// Label of requests that match no route.
const UNMATCHED: &str = "unmatched";

/// Seconds; the buckets of the OpenTelemetry semantic conventions for HTTP.
const DURATION_BUCKETS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

/// `http_server_request_duration_seconds{method,route,status}`.
static REQUEST_DURATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    register_histogram_vec!(
        "http_server_request_duration_seconds",
        "Duration of HTTP requests by method, route and status",
        &["method", "route", "status"],
        DURATION_BUCKETS.to_vec()
    )
    .expect("the name is valid and registered once")
});

/// Runs the request in a span that continues the caller's trace, and measures it.
pub async fn observe(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = method_label(request.method());
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = matched.as_ref().map_or(UNMATCHED, MatchedPath::as_str);
    let span = request_span(method, route);
    trace_context(request.headers()).set_parent_of(&span);

    let answer = next.run(request).instrument(span.clone());
    let response = tokio::time::timeout(TIME_LIMIT, answer)
        .await
        .unwrap_or_else(|_| timed_out());

    let (status, elapsed) = (response.status(), started.elapsed());
    REQUEST_DURATION
        .with_label_values(&[method, route, status.as_str()])
        .observe(elapsed.as_secs_f64());
    record(&span, status, elapsed);
    response
}

/// Answers for a handler that panicked; the panic's own text may hold anything, so it is not told.
pub fn panicked(_: Box<dyn Any + Send>) -> Response {
    Problem::internal(&anyhow::anyhow!("a request handler panicked")).into_response()
}

fn timed_out() -> Response {
    let detail = "the request took too long; a change may still be made";
    Problem::unavailable("timeout", detail, 5).into_response()
}

fn request_span(method: &'static str, route: &str) -> Span {
    tracing::info_span!(
        "request",
        otel.name = format_args!("{method} {route}"),
        otel.kind = "server",
        otel.status_code = tracing::field::Empty,
        http.request.method = method,
        http.route = route,
        http.response.status_code = tracing::field::Empty,
    )
}

/// At level info: changes of users are few, and who looks for one wants to find it.
fn record(span: &Span, status: StatusCode, elapsed: Duration) {
    span.record("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
    let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    tracing::info!(parent: span, status = status.as_u16(), elapsed_ms, "answered");
}

fn trace_context(headers: &HeaderMap) -> TraceContext {
    let text = |name| headers.get(name)?.to_str().ok().map(str::to_owned);
    TraceContext {
        traceparent: text(HEADER_TRACEPARENT),
        tracestate: text(HEADER_TRACESTATE).filter(|state| state.len() <= MAX_TRACESTATE),
    }
}

/// Clients can invent methods; labels must stay few.
fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "_OTHER",
    }
}
