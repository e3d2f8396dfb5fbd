//! The body of a send: read within limits, checked field by field, normalised.

use std::time::Duration;

use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use serde::Deserialize;
use service_runtime::problem::Problem;
use utoipa::ToSchema;
use wire_contract::Encoding;

use super::idempotency::RequestHash;
use super::problems::{
    BODY_TIMEOUT, BODY_TOO_LARGE, BODY_UNREADABLE, MALFORMED_JSON, UNSUPPORTED_MEDIA_TYPE,
};
use super::text::{measure, normalize_e164, normalize_sender};

/// Bytes of a request body at most; ten segments fit, even if every character is escaped.
pub const MAX_BODY_BYTES: usize = 16 * 1024;
/// Segments of one SMS at most.
const MAX_SEGMENTS: u16 = 10;
/// A client that has not sent its body by then is slow on purpose.
const BODY_ARRIVES_WITHIN: Duration = Duration::from_secs(5);
/// Characters of an unknown field's name that an answer repeats at most.
const SHOWN_NAME: usize = 64;
const EXPECTED: &str = r#"{"to": "+14155550123", "from": "ACME", "body": "text"}"#;

/// Characters of a `client_reference` at most.
const MAX_REFERENCE: usize = 64;
/// Seconds for which an SMS may be valid: a minute, to three days.
const VALIDITY: std::ops::RangeInclusive<u32> = 60..=259_200;

const NOT_A_VALIDITY: &str = "must be an integer from 60 to 259200";
const NOT_A_REFERENCE: &str = "must be 1 to 64 printable characters";
const FIELDS: &str = "is not a field of this request; the fields are to, from, body, validity_seconds, client_reference and \
     dry_run";

/// The body as it comes in. A field that is missing is empty, and refused as such.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SendRequest)]
pub struct RawSms {
    /// E.164: `+`, country code, number; space, `-`, `.` and parentheses are taken out. The number must have a length that
    /// its country allows
    #[serde(default)]
    #[schema(
        required,
        pattern = r"^\+[1-9][0-9 ().-]{5,30}$",
        example = "+14155550123"
    )]
    to: String,
    /// Sender: E.164, a short code of 3 to 8 digits, or 1 to 11 letters, digits, space and `. _ - &` with at least one letter
    #[schema(min_length = 1, max_length = 32, example = "ACME")]
    from: Option<String>,
    /// Text, at most 10 segments: 1530 septets of GSM-7, or 670 UTF-16 units with any other character
    #[serde(default)]
    #[schema(required, min_length = 1, max_length = 1530, example = "Hello")]
    body: String,
    /// Not to be handed over later than this after the submission
    #[schema(minimum = 60, maximum = 259_200)]
    validity_seconds: Option<u32>,
    /// Your own name for it, printable
    #[schema(
        min_length = 1,
        max_length = 64,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]+$",
        example = "order-4711"
    )]
    client_reference: Option<String>,
    /// Only say what it would be: nothing is queued
    dry_run: Option<bool>,
}

/// An SMS whose every field is valid and normalised. Not `Debug`: it is personal data.
pub struct Sms {
    /// E.164.
    pub to: String,
    /// Sender.
    pub from: Option<String>,
    /// Text.
    pub body: String,
    /// How it is encoded.
    pub encoding: Encoding,
    /// Parts that it is split into.
    pub segments: u16,
    /// Seconds after which it must not be handed over any more.
    pub validity_seconds: Option<u32>,
    /// The caller's own name for it.
    pub client_reference: Option<String>,
    /// Nothing is to be queued.
    pub dry_run: bool,
}

impl Sms {
    /// What is asked for, so that a second request under one idempotency key can be told from a repeat.
    pub fn request_hash(&self) -> RequestHash {
        let validity = self.validity_seconds.map(|seconds| seconds.to_string());
        RequestHash::of(&[
            ("to", Some(&self.to)),
            ("from", self.from.as_deref()),
            ("body", Some(&self.body)),
            ("validity_seconds", validity.as_deref()),
            ("client_reference", self.client_reference.as_deref()),
        ])
    }
}

/// Checks the fields in the order of the struct; the first that is invalid is named.
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
                "must fit into {MAX_SEGMENTS} segments: at most 1530 septets of GSM-7, or 670 UTF-16 units if it holds \
                 any other character, and fewer where a character of two would be split (this one: {})",
                encoding.as_str()
            )));
        }
        let validity_seconds = raw.validity_seconds;
        if validity_seconds.is_some_and(|seconds| !VALIDITY.contains(&seconds)) {
            return Err(Problem::invalid_field("validity_seconds", NOT_A_VALIDITY));
        }
        let client_reference = raw.client_reference;
        if client_reference
            .as_deref()
            .is_some_and(|it| !is_reference(it))
        {
            return Err(Problem::invalid_field("client_reference", NOT_A_REFERENCE));
        }
        Ok(Self {
            to,
            from,
            body: raw.body,
            encoding,
            segments,
            validity_seconds,
            client_reference,
            dry_run: raw.dry_run.unwrap_or(false),
        })
    }
}

fn is_reference(text: &str) -> bool {
    (1..=MAX_REFERENCE).contains(&text.chars().count()) && !text.chars().any(char::is_control)
}

impl<S: Send + Sync> FromRequest<S> for Sms {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            let detail = "send JSON with the header Content-Type: application/json";
            return Err(Problem::of(&UNSUPPORTED_MEDIA_TYPE, detail));
        }
        parse(&read_body(request, state, BODY_ARRIVES_WITHIN).await?)?.try_into()
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
            let detail = format!("the request body is larger than {MAX_BODY_BYTES} bytes");
            Err(Problem::of(&BODY_TOO_LARGE, detail))
        }
        Ok(Err(_)) => Err(Problem::of(&BODY_UNREADABLE, "the request body broke off")),
        Err(_) => {
            let detail = format!("the request body did not arrive within {timeout:?}");
            Err(Problem::of(&BODY_TIMEOUT, detail))
        }
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
        field @ "validity_seconds" => Problem::invalid_field(field, NOT_A_VALIDITY),
        field @ "client_reference" => Problem::invalid_field(field, NOT_A_REFERENCE),
        field @ "dry_run" => Problem::invalid_field(field, "must be true or false"),
        unknown => {
            Problem::invalid_field(unknown.chars().take(SHOWN_NAME).collect::<String>(), FIELDS)
        }
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
    Problem::of(&MALFORMED_JSON, format!("the request body {what}"))
}

#[cfg(test)]
#[path = "sms_tests.rs"]
mod tests;
