//! What every request passes through: [`detach`], then the shared span, metrics and net for panics, then [`limit`].

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use service_runtime::problem::{Problem, ProblemCode};
use tokio::sync::Semaphore;

use super::SEND_PATH;
use super::problems::{OVERLOADED, TIMEOUT};
use crate::metrics::SMS_REJECTED;

/// Requests in hand at most; more are refused at once.
const MAX_IN_FLIGHT: usize = 10_000;
/// A net: longer than the time for a body (5 s) and that for a confirm (10 s) together.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

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

/// Counts refused sends by the code of their problem.
pub async fn count_refusals(request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>();
    let is_send = path.is_some_and(|path| path.as_str() == SEND_PATH);
    let response = next.run(request).await;
    if let Some(ProblemCode(code)) = response.extensions().get()
        && is_send
    {
        SMS_REJECTED.with_label_values(&[code]).inc();
    }
    response
}

/// Bounds the requests in hand, those whose client has gone included, and the time of each.
pub async fn limit(State(limits): State<Limits>, request: Request, next: Next) -> Response {
    let Ok(_permit) = limits.permits.try_acquire() else {
        let detail = "too many requests in hand; try again";
        return Problem::of(&OVERLOADED, detail)
            .with_retry_after(1)
            .into_response();
    };
    match tokio::time::timeout(limits.timeout, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::of(&TIMEOUT, "the request took too long")
            .with_retry_after(5)
            .into_response(),
    }
}
