//! Errors over HTTP as `application/problem+json` (RFC 9457).

mod catalogue;
pub mod openapi;

use axum::http::{HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use problem_details::ProblemDetails;
use serde::Serialize;

pub use catalogue::{
    INTERNAL, INVALID_FIELD, METHOD_NOT_ALLOWED, NOT_FOUND, PAGE, ProblemType, UNAUTHORIZED,
    html_page, markdown_page,
};

/// An error answer: a status, a stable code for programs, a sentence for people.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    /// What the catalogue says of it; `None` where the service lists none.
    kind: Option<&'static ProblemType>,
    detail: String,
    field: Option<String>,
    message_id: Option<uuid::Uuid>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// The code of the problem that a response tells, in the response's extensions: a label for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProblemCode(pub &'static str);

/// Members besides those of the RFC.
#[derive(Debug, Clone, Serialize)]
struct Extensions {
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<uuid::Uuid>,
}

impl Problem {
    /// A problem of the catalogue, and what exactly is wrong.
    #[must_use]
    pub fn of(kind: &'static ProblemType, detail: impl Into<String>) -> Self {
        Self {
            kind: Some(kind),
            ..Self::new(kind.status, kind.code, detail)
        }
    }

    /// A problem that no catalogue lists, with its documented code and what exactly is wrong.
    #[must_use]
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            code,
            kind: None,
            detail: detail.into(),
            field: None,
            message_id: None,
            headers: Vec::new(),
        }
    }

    /// 422: a field of the request is not acceptable.
    #[must_use]
    pub fn invalid_field(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::of(&INVALID_FIELD, detail).with_field(field)
    }

    /// 401, with the challenge that RFC 9110 asks for.
    #[must_use]
    pub fn unauthorized(detail: impl Into<String>) -> Self {
        let challenge = HeaderValue::from_static("Bearer");
        Self::of(&UNAUTHORIZED, detail).with_header(header::WWW_AUTHENTICATE, challenge)
    }

    /// 503: temporary; the client may try again after so many seconds.
    #[must_use]
    pub fn unavailable(code: &'static str, detail: impl Into<String>, after_secs: u32) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail).with_retry_after(after_secs)
    }

    /// 500: the cause is logged, not told.
    #[must_use]
    pub fn internal(error: &anyhow::Error) -> Self {
        tracing::error!(error = format!("{error:#}"), "request failed");
        let detail = "the server could not handle the request; its log says why";
        Self::of(&INTERNAL, detail)
    }

    /// Names the field that is at fault.
    #[must_use]
    pub fn with_field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Names the message that may exist although the request failed.
    #[must_use]
    pub fn with_message_id(mut self, message_id: uuid::Uuid) -> Self {
        self.message_id = Some(message_id);
        self
    }

    /// Says after how many seconds the request may be tried again (RFC 9110, 10.2.3).
    #[must_use]
    pub fn with_retry_after(self, seconds: u32) -> Self {
        self.with_header(header::RETRY_AFTER, HeaderValue::from(seconds))
    }

    /// One more header of the answer.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The status of the answer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The code of the answer.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.code
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut details = ProblemDetails::from_status_code(self.status).with_detail(self.detail);
        if let Some(kind) = self.kind {
            details = details.with_title(kind.title);
            // Codes are words, so that it is a path; if one were not, the code would still tell.
            if let Ok(uri) = Uri::try_from(kind.uri()) {
                details = details.with_type(uri);
            }
        }
        let mut response = details
            .with_extensions(Extensions {
                code: self.code,
                retry: self.kind.map(|kind| kind.retry),
                field: self.field,
                message_id: self.message_id,
            })
            .into_response();
        response.extensions_mut().insert(ProblemCode(self.code));
        response.headers_mut().extend(self.headers);
        response
    }
}
