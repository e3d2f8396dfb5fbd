//! Requests to others, each a span after OpenTelemetry's semantic conventions for HTTP clients.

use reqwest::{Method, Response, Url};
use tracing::{Instrument, Span};

/// Sends a request as part of the current trace; outside of any there is no span. Whoever wants the trace to go on at the other
/// end takes the headers for it in `request`, which runs inside the new span.
///
/// The path of the URL is not recorded, as it may name a user or hold a secret.
///
/// # Errors
/// Those of `request`.
pub async fn traced(
    method: &Method,
    url: &Url,
    request: impl Future<Output = reqwest::Result<Response>>,
) -> reqwest::Result<Response> {
    let span = client_span(method, url);
    let answer = request.instrument(span.clone()).await;
    match &answer {
        Ok(response) => {
            let status = response.status();
            span.record("http.response.status_code", status.as_u16());
            // Unlike a server's: every 4xx is an error of the client.
            if status.is_client_error() || status.is_server_error() {
                fail(&span, status.as_str());
            }
        }
        Err(error) if error.is_timeout() => fail(&span, "timeout"),
        Err(error) if error.is_connect() => fail(&span, "connect"),
        // The word that the conventions have for any other.
        Err(_) => fail(&span, "_OTHER"),
    }
    answer
}

fn client_span(method: &Method, url: &Url) -> Span {
    if Span::current().is_none() {
        return Span::none();
    }
    tracing::error_span!(
        "HTTP request",
        otel.name = method.as_str(),
        otel.kind = "client",
        http.request.method = method.as_str(),
        server.address = url.host_str(),
        server.port = url.port_or_known_default(),
        url.scheme = url.scheme(),
        http.response.status_code = tracing::field::Empty,
        error.type = tracing::field::Empty,
        otel.status_code = tracing::field::Empty,
    )
}

fn fail(span: &Span, error: &str) {
    span.record("error.type", error);
    span.record("otel.status_code", "ERROR");
}
