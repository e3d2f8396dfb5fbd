//! What every request passes through, from the outside in: [`detach`], [`observe`], a net for
//! panics, [`limit`].

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use service_runtime::problem::{Problem, ProblemCode};
use service_runtime::trace::TraceContext;
use tokio::sync::Semaphore;
use tracing::{Instrument, Span};
use wire_contract::{HEADER_TRACEPARENT, HEADER_TRACESTATE};

use super::SEND_PATH;
use crate::metrics::{REQUEST_DURATION, SMS_REJECTED};

/// Requests in hand at most; more are refused at once.
const MAX_IN_FLIGHT: usize = 10_000;
/// A net: longer than the time for a body (5 s) and that for a confirm (10 s) together.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes of `tracestate` that are passed on: what W3C Trace Context, 3.3.1.5, asks for. More
/// could burst the frame of an AMQP header.
const MAX_TRACESTATE: usize = 512;
/// Label of requests that match no route.
const UNMATCHED: &str = "unmatched";

/// Bounds of [`limit`].
#[derive(Debug, Clone)]
pub struct Limits {
    /// One for each request in hand.
    pub permits: Arc<Semaphore>,
    /// The time of each.
    pub timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            permits: Arc::new(Semaphore::new(MAX_IN_FLIGHT)),
            timeout: REQUEST_TIMEOUT,
        }
    }
}

/// Runs the request in a task of its own, so that it comes to its end, and is counted, when the
/// client goes away: an SMS that was published must not be forgotten half-way.
pub async fn detach(request: Request, next: Next) -> Response {
    match tokio::spawn(next.run(request)).await {
        Ok(response) => response,
        Err(error) => Problem::internal(&anyhow::Error::new(error)).into_response(),
    }
}

/// One span and one sample of the metrics for each request. No keys, numbers or bodies.
pub async fn observe(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = method_label(request.method());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or(UNMATCHED, MatchedPath::as_str);
    let span = request_span(method, route);
    trace_context(request.headers()).set_parent_of(&span);
    let response = next.run(request).instrument(span.clone()).await;

    let status = response.status();
    REQUEST_DURATION
        .with_label_values(&[method, route, status.as_str()])
        .observe(started.elapsed().as_secs_f64());
    if let Some(ProblemCode(code)) = response.extensions().get()
        && route == SEND_PATH
    {
        SMS_REJECTED.with_label_values(&[code]).inc();
    }
    record(&span, status);
    response
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

/// At level debug, so that the hot path writes no lines; those that own a failure log it.
fn record(span: &Span, status: StatusCode) {
    span.record("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
    tracing::debug!(parent: span, status = status.as_u16(), "answered");
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

/// Bounds the requests in hand, those whose client has gone included, and the time of each.
pub async fn limit(State(limits): State<Limits>, request: Request, next: Next) -> Response {
    let Ok(_permit) = limits.permits.try_acquire() else {
        return Problem::unavailable("overloaded", "too many requests in hand; try again", 1)
            .into_response();
    };
    match tokio::time::timeout(limits.timeout, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::unavailable("timeout", "the request took too long", 5).into_response(),
    }
}

/// Answers for a handler that panicked; the panic's own text may hold anything, so it is not told.
pub fn panicked(_: Box<dyn Any + Send>) -> Response {
    Problem::internal(&anyhow!("a request handler panicked")).into_response()
}
