//! Requests to others, each a span after OpenTelemetry's semantic conventions for HTTP clients.

use opentelemetry::trace::Status;
use reqwest::{Method, StatusCode, Url};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The span of a request and what reads its answer; an error unless it is told how that ended. What runs inside [`Self::span`]
/// takes the headers there for the trace to go on at the other end.
#[derive(Debug)]
pub struct RequestSpan {
    span: Span,
    settled: bool,
}

impl RequestSpan {
    /// Begins it as part of the current trace; outside of any there is none. Of the URL the host alone is recorded: the rest may
    /// name a user or hold a secret.
    #[must_use]
    pub fn begin(method: &Method, url: &Url) -> Self {
        Self {
            span: client_span(method, url),
            settled: false,
        }
    }

    /// Where the request runs.
    #[must_use]
    pub fn span(&self) -> &Span {
        &self.span
    }

    /// It was answered so. Which statuses are errors the caller knows: a 404 may be all that was asked for.
    pub fn answered(&mut self, status: StatusCode) {
        let status = i64::from(status.as_u16());
        self.span.set_attribute("http.response.status_code", status);
        self.settled = true;
    }

    /// It failed, and why: a word out of few.
    pub fn fail(&mut self, error_type: &'static str) {
        self.span.set_attribute("error.type", error_type);
        self.span.set_status(Status::error(""));
        self.settled = true;
    }
}

impl Drop for RequestSpan {
    fn drop(&mut self) {
        if !self.settled {
            self.fail("cancelled");
        }
    }
}

fn client_span(method: &Method, url: &Url) -> Span {
    if Span::current().is_none() {
        return Span::none();
    }
    let host = url.host_str().unwrap_or_default();
    tracing::error_span!(
        "HTTP request",
        otel.name = method.as_str(),
        otel.kind = "client",
        http.request.method = method.as_str(),
        // An IPv6 address without its brackets.
        server.address = host.trim_matches(['[', ']']),
        server.port = url.port_or_known_default().map(i64::from),
        url.full = format_args!("{}://{host}/REDACTED", url.scheme()),
    )
}
