//! What every HTTP API of the product has around its routes.

use std::any::Any;
use std::sync::LazyLock;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use opentelemetry::trace::Status;
use prometheus::{HistogramVec, register_histogram_vec};
use tracing::{Instrument, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use wire_contract::{HEADER_TRACEPARENT, HEADER_TRACESTATE};

use crate::problem::{METHOD_NOT_ALLOWED, NOT_FOUND, Problem};
use crate::trace::TraceContext;

/// Label of requests that match no route.
const UNMATCHED: &str = "unmatched";
/// Seconds; the buckets of the OpenTelemetry semantic conventions for HTTP.
const DURATION_BUCKETS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

/// `http_server_request_duration_seconds{method,route,status}`: from the headers of a request until its
/// answer.
static REQUEST_DURATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    register_histogram_vec!(
        "http_server_request_duration_seconds",
        "Duration of HTTP requests by method, route and status",
        &["method", "route", "status"],
        DURATION_BUCKETS.to_vec()
    )
    .expect("the name is valid and registered once")
});

/// At which level an answered request is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnsweredAt {
    /// A hot path must write no lines; those that own a failure log it.
    Debug,
    /// Requests are few, and who looks for one wants to find it.
    Info,
}

/// Runs the request in a span that continues the caller's trace, and measures it. No keys, bodies, nor
/// queries of URLs.
pub async fn observe(State(level): State<AnsweredAt>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = method_label(request.method());
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = matched.as_ref().map_or(UNMATCHED, MatchedPath::as_str);
    let span = request_span(method, route);
    trace_context(request.headers()).set_parent_of(&span);

    let response = next.run(request).instrument(span.clone()).await;

    let (status, elapsed) = (response.status(), started.elapsed());
    REQUEST_DURATION
        .with_label_values(&[method, route, status.as_str()])
        .observe(elapsed.as_secs_f64());
    record(&span, status);
    let seconds = elapsed.as_secs_f64();
    match level {
        AnsweredAt::Debug => {
            tracing::debug!(parent: &span, status = status.as_u16(), seconds, "answered");
        }
        AnsweredAt::Info => {
            tracing::info!(parent: &span, status = status.as_u16(), seconds, "answered");
        }
    }
    response
}

/// Answers for a handler that panicked; the panic's own text may hold anything, so it is not told.
#[must_use]
pub fn panicked(_: Box<dyn Any + Send>) -> Response {
    Problem::internal(&anyhow::anyhow!("a request handler panicked")).into_response()
}

/// 404 for what no route matches.
#[expect(clippy::unused_async, reason = "a handler")]
pub async fn not_found() -> Problem {
    Problem::of(&NOT_FOUND, "there is nothing at this path")
}

/// 405 for a route that does not take the method.
#[expect(clippy::unused_async, reason = "a handler")]
pub async fn method_not_allowed() -> Problem {
    Problem::of(
        &METHOD_NOT_ALLOWED,
        "the path does not take this method; the header Allow lists those it does",
    )
}

// At level error, like every span here, although nothing is written for it: LOG=warn must not lose the trace.
fn request_span(method: &'static str, route: &str) -> Span {
    tracing::error_span!(
        "request",
        otel.name = format_args!("{method} {route}"),
        otel.kind = "server",
        http.request.method = method,
        http.route = route,
        // Not the path: what matches no route may be anything, a key in the wrong place too.
        url.scheme = "http",
    )
}

/// Past the log: to record a field of a span costs it the text of all of them, and the line that tells of the answer has it.
fn record(span: &Span, status: StatusCode) {
    span.set_attribute("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() {
        span.set_attribute("error.type", status.as_str().to_owned());
        span.set_status(Status::error(""));
    }
}

fn trace_context(headers: &HeaderMap) -> TraceContext {
    let text = |name| headers.get(name)?.to_str().ok().map(str::to_owned);
    TraceContext::received(text(HEADER_TRACEPARENT), text(HEADER_TRACESTATE))
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
