//! `POST /api/v1/sms/send`.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Serialize;
use service_runtime::amqp::{PublishError, Publisher};
use service_runtime::problem::{Problem, openapi};
use time::{Duration, OffsetDateTime};
use utoipa::openapi::RefOr;
use utoipa::openapi::Type;
use utoipa::openapi::response::Response as ResponseObject;
use utoipa::{IntoResponses, ToSchema};
use uuid::Uuid;
use wire_contract::{Encoding, SmsEnvelope};

use super::auth::ClientContext;
use super::idempotency::{IdempotencyKey, Remembered, RequestHash};
use super::problems::{self, NOT_CONFIRMED, QUEUE_UNAVAILABLE, QUOTA_EXCEEDED};
use super::publish::publish_sms_message;
use super::sms::{RawSms, Sms};
use crate::metrics::SMS_ACCEPTED;
use crate::usage::{QuotaState, Usage};

/// What is left of a quota, and what the quota is (draft-ietf-httpapi-ratelimit-headers).
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const SECONDS_A_DAY: u32 = 86_400;

/// The answer 202.
#[derive(Debug, Serialize, ToSchema)]
pub struct Queued {
    /// Names the SMS
    message_id: Uuid,
    /// Always `queued`
    #[schema(inline, value_type = String, pattern = "^queued$")]
    status: &'static str,
    /// Parts that it is split into
    segments: u16,
    /// How the text is encoded
    encoding: Encoding,
}

/// The answer 200, to a dry run.
#[derive(Debug, Serialize, ToSchema)]
pub struct Measured {
    /// Parts that the text is split into
    segments: u16,
    /// How it is encoded
    encoding: Encoding,
    /// Segments left of today's quota before this SMS
    quota_left: u32,
}

struct SendProblems;
impl IntoResponses for SendProblems {
    fn responses() -> BTreeMap<String, RefOr<ResponseObject>> {
        let mut responses = openapi::responses(&problems::of_send());
        if let Some(RefOr::T(too_many)) = responses.get_mut("429") {
            for (name, meaning) in [
                (
                    "RateLimit",
                    "What is left of the daily quota; where that is used up",
                ),
                ("RateLimit-Policy", "The daily quota; where that is used up"),
            ] {
                let header = openapi::header(Type::String, meaning);
                too_many.headers.insert(name.to_owned(), header.into());
            }
        }
        responses
    }
}

/// Accepts an SMS
///
/// 202 once the broker has confirmed that the SMS is queued; what becomes of it `GET /api/v1/sms/{message_id}` tells. With
/// `dry_run` nothing is queued, and 200 says what the SMS would be.
///
/// Runs to its end even when the client goes away (see [`super::middleware::detach`]).
///
/// # Errors
/// 503 when it was not queued, or not for certain; 409 and 429 as the catalogue says.
#[utoipa::path(
    post,
    path = "/api/v1/sms/send",
    params(
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!#-~][!-~]*$",
            description = "Requests of one user with the same key and content are one SMS; visible ASCII characters, as they \
                are or as a quoted string (RFC 9651)"),
    ),
    request_body = RawSms,
    responses(
        (status = 200, description = "What the SMS would be (dry run)", body = Measured, headers(
            ("RateLimit" = String, description = "What is left of the daily quota"),
            ("RateLimit-Policy" = String, description = "The daily quota"),
        )),
        (status = 202, description = "The SMS is queued", body = Queued, headers(
            ("RateLimit" = String, description = "What is left of the daily quota"),
            ("RateLimit-Policy" = String, description = "The daily quota"),
        )),
        SendProblems,
    ),
    security(("api_key" = []), ("bearer" = []))
)]
pub async fn send(
    State(publisher): State<Publisher>,
    State(usage): State<Usage>,
    State(remembered): State<Remembered>,
    Extension(client): Extension<ClientContext>,
    key: IdempotencyKey,
    sms: Sms,
) -> Result<Response, Problem> {
    let now = OffsetDateTime::now_utc();
    if sms.dry_run {
        let left = usage.left(client.user_id, client.daily_quota, now);
        return Ok(measured(&sms, left));
    }
    let hash = key.is_given().then(|| sms.request_hash());
    let message_id = key.message_id(client.user_id);
    let envelope = sms.into_envelope(&client, message_id, now, hash.map(RequestHash::to_hex));
    // Server B charges one SMS once, however often it comes: so does the early count here.
    let is_new = hash.map_or(Ok(true), |hash| remembered.note(message_id, hash))?;
    let forget = || {
        if is_new {
            remembered.forget(message_id);
        }
    };
    let (charge, left) = if is_new {
        let charged = usage.charge(client.user_id, client.daily_quota, envelope.segments, now);
        let (charge, left) = charged.map_err(|left| {
            forget();
            quota_exceeded(left, envelope.segments)
        })?;
        (Some(charge), left)
    } else {
        (None, usage.left(client.user_id, client.daily_quota, now))
    };
    let outcome = publish_sms_message(&publisher, &envelope).await;
    if may_be_queued(outcome) {
        // Counted, too, where it may only have been queued: server B would charge it.
        if let Some(charge) = charge {
            charge.keep();
        }
        if let Some(hash) = hash {
            remembered.stays(message_id, hash);
        }
    } else {
        forget();
    }
    outcome.map_err(|error| not_queued(error, message_id))?;
    SMS_ACCEPTED.inc();
    let queued = Queued {
        message_id,
        status: "queued",
        segments: envelope.segments,
        encoding: envelope.encoding,
    };
    Ok((StatusCode::ACCEPTED, quota_headers(left), Json(queued)).into_response())
}

fn may_be_queued(outcome: Result<(), PublishError>) -> bool {
    matches!(outcome, Ok(()) | Err(PublishError::Unconfirmed))
}

fn measured(sms: &Sms, left: QuotaState) -> Response {
    let measured = Measured {
        segments: sms.segments,
        encoding: sms.encoding,
        quota_left: left.left,
    };
    (StatusCode::OK, quota_headers(left), Json(measured)).into_response()
}

fn quota_headers(state: QuotaState) -> [(HeaderName, HeaderValue); 2] {
    let QuotaState {
        quota,
        left,
        resets_in,
    } = state;
    let policy = format!(r#""daily";q={quota};w={SECONDS_A_DAY};qu="segments""#);
    let limit = format!(r#""daily";r={left};t={resets_in}"#);
    // Numbers and fixed words are always a header's value.
    let value = |text| HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""));
    [
        (RATE_LIMIT_POLICY, value(policy)),
        (RATE_LIMIT, value(limit)),
    ]
}

fn quota_exceeded(left: QuotaState, segments: u16) -> Problem {
    let QuotaState {
        left: it, quota, ..
    } = left;
    let problem = if u32::from(segments) > quota {
        let detail = format!(
            "the SMS has {segments} segments, and the quota is {quota} a day: it fits on no day"
        );
        Problem::of(&QUOTA_EXCEEDED, detail)
    } else {
        let detail =
            format!("{it} of {quota} segments are left today (UTC), and the SMS has {segments}");
        Problem::of(&QUOTA_EXCEEDED, detail).with_retry_after(left.resets_in)
    };
    let headers = quota_headers(left).into_iter();
    headers.fold(problem, |problem, (name, value)| {
        problem.with_header(name, value)
    })
}

fn not_queued(error: PublishError, message_id: Uuid) -> Problem {
    match error {
        PublishError::NotConnected | PublishError::Refused | PublishError::Unroutable => {
            let detail = format!("the SMS was not queued: {error}; try again");
            Problem::of(&QUEUE_UNAVAILABLE, detail).with_retry_after(1)
        }
        PublishError::Unconfirmed => {
            let detail = "RabbitMQ did not confirm the SMS in time: it may have been queued under this message_id, so a second \
                 try without the same Idempotency-Key may send it twice";
            Problem::of(&NOT_CONFIRMED, detail)
                .with_message_id(message_id)
                .with_retry_after(5)
        }
    }
}

impl Sms {
    fn into_envelope(
        self,
        client: &ClientContext,
        message_id: Uuid,
        submitted_at: OffsetDateTime,
        request_hash: Option<String>,
    ) -> SmsEnvelope {
        let validity = self.validity_seconds.map(i64::from).map(Duration::seconds);
        SmsEnvelope {
            user_id: client.user_id,
            message_id,
            to: self.to,
            from: self.from,
            body: self.body,
            encoding: self.encoding,
            segments: self.segments,
            submitted_at,
            admission: client.admission,
            expires_at: validity.map(|validity| submitted_at + validity),
            client_reference: self.client_reference,
            key_digest: Some(client.key_digest),
            request_hash,
        }
    }
}

#[cfg(test)]
#[path = "send_tests.rs"]
mod tests;
