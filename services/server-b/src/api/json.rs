//! Request bodies, checked so that an error names the field and never quotes a value: it may be a key
//! in the wrong place.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use serde::de::{Deserialize, DeserializeOwned, Deserializer};
use serde_json::error::Category;
use service_runtime::problem::Problem;

use super::error::ApiError;
use super::problems::{BODY_TOO_LARGE, MALFORMED_JSON, UNSUPPORTED_MEDIA_TYPE};

/// Bytes of a body at most.
pub const MAX_BODY: usize = 16 * 1024;
/// These messages of serde name a field of ours or the client's, and no value.
const ABOUT_NAMES: [&str; 3] = ["unknown field", "missing field", "duplicate field"];

/// A JSON object; an empty body is `{}`.
pub struct JsonBody<T>(pub T);

impl<T, S> FromRequest<S> for JsonBody<T>
where
    T: DeserializeOwned,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let is_json = is_json(request.headers());
        let body = read(request, state, MAX_BODY).await?;
        if body.is_empty() {
            return Ok(Self(parse(b"{}")?));
        }
        if !is_json {
            return Err(Problem::of(
                &UNSUPPORTED_MEDIA_TYPE,
                "the body must be JSON, with the header `Content-Type: application/json`",
            )
            .into());
        }
        Ok(Self(parse(&body)?))
    }
}

/// The bytes of a body, of which the router lets in `most`.
pub async fn read<S>(request: Request, state: &S, most: usize) -> Result<Bytes, Problem>
where
    S: Send + Sync,
{
    let body = Bytes::from_request(request, state).await;
    body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let detail = format!("the body is larger than {most} bytes");
            Problem::of(&BODY_TOO_LARGE, detail)
        }
        _ => bad_request("the body could not be read"),
    })
}

fn is_json(headers: &HeaderMap) -> bool {
    let essence = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .map_or("", str::trim);
    essence.eq_ignore_ascii_case("application/json")
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let parsed = serde_path_to_error::deserialize(&mut json)
        .map_err(|error| explain(&error.path().to_string(), error.inner()))?;
    json.end().map_err(|error| explain("", &error))?;
    Ok(parsed)
}

fn explain(path: &str, error: &serde_json::Error) -> Problem {
    if error.classify() != Category::Data {
        let (line, column) = (error.line(), error.column());
        return bad_request(format!(
            "the body is not JSON: line {line}, column {column}"
        ));
    }
    let message = error.to_string();
    let message = message
        .rsplit_once(" at line ")
        .map_or(message.as_str(), |(before, _)| before);
    if ABOUT_NAMES.iter().any(|known| message.starts_with(known)) {
        let field = message.split('`').nth(1).unwrap_or_default();
        return Problem::invalid_field(field, message);
    }
    match path {
        "" | "." => bad_request("the body must be a JSON object"),
        field => Problem::invalid_field(field, must_be(field)),
    }
}

fn must_be(field: &str) -> &'static str {
    match field {
        "username" | "api_key" | "name" => "must be a text",
        "key_expires_at" | "expires_at" => "must be a time such as 2027-01-31T00:00:00Z",
        "role" => "must be `admin` or `reader`",
        "is_active" => "must be true or false",
        "daily_quota" => "must be an integer from 0 to 2147483647",
        "overlap_seconds" => "must be an integer from 0 to 2592000",
        _ => "has the wrong type",
    }
}

fn bad_request(detail: impl Into<String>) -> Problem {
    Problem::of(&MALFORMED_JSON, detail)
}

/// A field that may be absent but not null, which would read like a wish to clear it.
pub fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}
