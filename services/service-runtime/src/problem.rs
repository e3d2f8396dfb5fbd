//! Errors over HTTP as `application/problem+json` (RFC 9457). Each is of a kind that its service's catalogue lists.

mod catalogue;
pub mod openapi;
mod page;

use axum::http::{HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use problem_details::ProblemDetails;
use serde::Serialize;
use uuid::Uuid;

pub use catalogue::{
    DATABASE_UNAVAILABLE, INTERNAL, INVALID_FIELD, METHOD_NOT_ALLOWED, NOT_FOUND, PAGE,
    ProblemType, UNAUTHORIZED, markdown_page,
};
pub use page::{page_headers, router};

/// An error answer: a kind of problem, and a sentence for people.
#[derive(Debug)]
pub struct Problem {
    kind: &'static ProblemType,
    detail: String,
    field: Option<Box<str>>,
    message_id: Option<Uuid>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// The code of the problem that a response tells, in the response's extensions: a label for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProblemCode(pub &'static str);

/// Members besides those of the RFC.
#[derive(Debug, Clone, Serialize)]
struct Extensions {
    code: &'static str,
    retry: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<Uuid>,
}

impl Problem {
    /// A problem of this kind, and what exactly is wrong.
    #[must_use]
    pub fn of(kind: &'static ProblemType, detail: impl Into<String>) -> Self {
        Self {
            kind,
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
        self.field = Some(field.into().into_boxed_str());
        self
    }

    /// Names the message that may exist although the request failed.
    #[must_use]
    pub fn with_message_id(mut self, message_id: Uuid) -> Self {
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
        self.kind.status
    }

    /// The code of the answer.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.kind.code
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut details = ProblemDetails::from_status_code(self.kind.status)
            .with_title(self.kind.title)
            .with_detail(self.detail);
        // Codes are words, so that it is a path; if one were not, the code would still tell.
        if let Ok(uri) = Uri::try_from(self.kind.uri()) {
            details = details.with_type(uri);
        }
        let mut response = details
            .with_extensions(Extensions {
                code: self.kind.code,
                retry: self.kind.retry,
                field: self.field,
                message_id: self.message_id,
            })
            .into_response();
        let code = ProblemCode(self.kind.code);
        response.extensions_mut().insert(code);
        response.headers_mut().extend(self.headers);
        response
    }
}
