//! Errors over HTTP as `application/problem+json` (RFC 9457).

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use problem_details::ProblemDetails;
use serde::Serialize;

/// An error answer: a status, a stable code for programs, a sentence for people.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    field: Option<String>,
    message_id: Option<String>,
    retry_after_secs: Option<u32>,
    allow_authenticate: bool,
}

/// The code of the problem that a response tells, in the response's extensions: a label for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProblemCode(pub &'static str);

/// Members besides those of the RFC.
#[derive(Debug, Clone, Serialize)]
struct Extensions {
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<String>,
}

impl Problem {
    /// A problem with its documented code and what exactly is wrong.
    #[must_use]
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            field: None,
            message_id: None,
            retry_after_secs: None,
            allow_authenticate: false,
        }
    }

    /// 422: a field of the request is not acceptable.
    #[must_use]
    pub fn invalid_field(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            field: Some(field.into()),
            ..Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "invalid_field",
                detail.into(),
            )
        }
    }

    /// 401, with the challenge that RFC 9110 asks for.
    #[must_use]
    pub fn unauthorized(detail: impl Into<String>) -> Self {
        Self {
            allow_authenticate: true,
            ..Self::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
        }
    }

    /// 503: temporary; the client may try again after so many seconds.
    #[must_use]
    pub fn unavailable(code: &'static str, detail: impl Into<String>, after_secs: u32) -> Self {
        Self {
            retry_after_secs: Some(after_secs),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail)
        }
    }

    /// 500: the cause is logged, not told.
    #[must_use]
    pub fn internal(error: &anyhow::Error) -> Self {
        tracing::error!(error = format!("{error:#}"), "request failed");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the server could not handle the request; its log says why",
        )
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
        self.message_id = Some(message_id.to_string());
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
        let mut response = ProblemDetails::from_status_code(self.status)
            .with_detail(self.detail)
            .with_extensions(Extensions {
                code: self.code,
                field: self.field,
                message_id: self.message_id,
            })
            .into_response();
        response.extensions_mut().insert(ProblemCode(self.code));
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after_secs {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.allow_authenticate {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
