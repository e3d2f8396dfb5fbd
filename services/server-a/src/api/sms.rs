//! `POST /api/v1/sms/send`.

use std::time::Duration;

use axum::Extension;
use axum::Json;
use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use service_runtime::amqp::{PublishError, Publisher};
use service_runtime::problem::Problem;
use time::OffsetDateTime;
use uuid::Uuid;
use wire_contract::{Encoding, SmsEnvelope};

use super::auth::ClientContext;
use super::publish::publish_sms_message;
use super::text::{measure, normalize_e164, normalize_sender};
use crate::metrics::SMS_ACCEPTED;

/// Bytes of a request body at most; ten segments fit, even if every character is escaped.
pub const MAX_BODY_BYTES: usize = 16 * 1024;
/// Segments of one SMS at most.
const MAX_SEGMENTS: u16 = 10;
/// A client that has not sent its body by then is slow on purpose.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// Characters of an unknown field's name that an answer repeats at most.
const SHOWN_NAME: usize = 64;
const EXPECTED: &str = r#"{"to": "+14155550123", "from": "ACME", "body": "text"}"#;

/// The body as it comes in. A field that is missing is empty, and refused as such.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSms {
    #[serde(default)]
    to: String,
    from: Option<String>,
    #[serde(default)]
    body: String,
}

/// An SMS whose every field is valid and normalised. Not `Debug`: it is personal data.
pub struct Sms {
    to: String,
    from: Option<String>,
    body: String,
    encoding: Encoding,
    segments: u16,
}

/// The answer 202.
#[derive(Debug, Serialize)]
struct Queued {
    message_id: Uuid,
    status: &'static str,
    segments: u16,
    encoding: Encoding,
}

/// Accepts an SMS: 202 once the broker has confirmed that it is in `sms_outbound_queue`.
///
/// Runs to its end even when the client goes away (see [`super::middleware::detach`]).
///
/// # Errors
/// 503 when it was not queued, or not for certain.
pub async fn send(
    State(publisher): State<Publisher>,
    Extension(client): Extension<ClientContext>,
    sms: Sms,
) -> Result<Response, Problem> {
    let envelope = sms.into_envelope(&client);
    publish_sms_message(&publisher, &envelope)
        .await
        .map_err(|error| not_queued(error, envelope.message_id))?;
    SMS_ACCEPTED.inc();
    let queued = Queued {
        message_id: envelope.message_id,
        status: "queued",
        segments: envelope.segments,
        encoding: envelope.encoding,
    };
    Ok((StatusCode::ACCEPTED, Json(queued)).into_response())
}

fn not_queued(error: PublishError, message_id: Uuid) -> Problem {
    match error {
        PublishError::NotConnected | PublishError::Refused | PublishError::Unroutable => {
            Problem::unavailable(
                "queue_unavailable",
                format!("the SMS was not queued: {error}; try again"),
                1,
            )
        }
        PublishError::Unconfirmed => Problem::unavailable(
            "not_confirmed",
            "RabbitMQ did not confirm the SMS in time: it may have been queued under this \
             message_id, so a second try may send it twice",
            5,
        )
        .with_message_id(message_id),
    }
}

impl Sms {
    fn into_envelope(self, client: &ClientContext) -> SmsEnvelope {
        SmsEnvelope {
            user_id: client.user_id,
            message_id: Uuid::now_v7(),
            to: self.to,
            from: self.from,
            body: self.body,
            encoding: self.encoding,
            segments: self.segments,
            submitted_at: OffsetDateTime::now_utc(),
            admission: client.admission,
            expires_at: None,
            client_reference: None,
            key_digest: None,
            request_hash: None,
        }
    }
}

/// Checks the fields in the order `to`, `from`, `body`; the first that is invalid is named.
impl TryFrom<RawSms> for Sms {
    type Error = Problem;

    fn try_from(raw: RawSms) -> Result<Self, Problem> {
        let to = normalize_e164(&raw.to).map_err(|rule| Problem::invalid_field("to", rule))?;
        let from = raw
            .from
            .map(|from| normalize_sender(&from))
            .transpose()
            .map_err(|rule| Problem::invalid_field("from", rule))?;
        let invalid = |detail: String| Problem::invalid_field("body", detail);
        if raw.body.trim().is_empty() {
            return Err(invalid("must not be empty".to_owned()));
        }
        // PostgreSQL cannot store it, so server B could not take the message.
        if raw.body.contains('\0') {
            return Err(invalid("must not contain the character U+0000".to_owned()));
        }
        let (encoding, segments) = measure(&raw.body);
        if segments > MAX_SEGMENTS {
            return Err(invalid(format!(
                "must fit into {MAX_SEGMENTS} segments: at most 1530 septets of GSM-7, or 670 \
                 UTF-16 units if it holds any other character (this one: {})",
                encoding.as_str()
            )));
        }
        Ok(Self {
            to,
            from,
            body: raw.body,
            encoding,
            segments,
        })
    }
}

impl<S: Send + Sync> FromRequest<S> for Sms {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "send JSON with the header Content-Type: application/json",
            ));
        }
        parse(&read_body(request, state, BODY_TIMEOUT).await?)?.try_into()
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let media_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next());
    media_type.is_some_and(|media_type| media_type.trim().eq_ignore_ascii_case("application/json"))
}

async fn read_body<S: Send + Sync>(
    request: Request,
    state: &S,
    timeout: Duration,
) -> Result<Bytes, Problem> {
    match tokio::time::timeout(timeout, Bytes::from_request(request, state)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            Err(Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_large",
                format!("the request body is larger than {MAX_BODY_BYTES} bytes"),
            ))
        }
        Ok(Err(_)) => Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "body_unreadable",
            "the request body broke off",
        )),
        Err(_) => Err(Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            "body_timeout",
            format!("the request body did not arrive within {timeout:?}"),
        )),
    }
}

/// serde's own text is not passed on: it quotes what it does not like.
fn parse(bytes: &[u8]) -> Result<RawSms, Problem> {
    // An array would be taken for the fields in their order.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(malformed(format!(
            "must be a JSON object such as {EXPECTED}"
        )));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut deserializer);
    let raw: RawSms = parsed.map_err(|error| refused(&error))?;
    deserializer.end().map_err(|error| syntax(&error))?;
    Ok(raw)
}

fn refused(error: &serde_path_to_error::Error<serde_json::Error>) -> Problem {
    if !error.inner().is_data() {
        return syntax(error.inner());
    }
    match error.path().to_string().as_str() {
        "." => malformed(format!("must name each field once, such as {EXPECTED}")),
        field @ ("to" | "from" | "body") => Problem::invalid_field(field, "must be a string"),
        unknown => Problem::invalid_field(
            unknown.chars().take(SHOWN_NAME).collect::<String>(),
            "is not a field of this request; the fields are to, from and body",
        ),
    }
}

fn syntax(error: &serde_json::Error) -> Problem {
    malformed(format!(
        "is not valid JSON at line {}, column {}",
        error.line(),
        error.column()
    ))
}

fn malformed(what: impl std::fmt::Display) -> Problem {
    Problem::new(
        StatusCode::BAD_REQUEST,
        "malformed_json",
        format!("the request body {what}"),
    )
}

#[cfg(test)]
#[path = "sms_tests.rs"]
mod tests;
