//! `GET /api/v1/sms/{message_id}` and `GET /api/v1/sms`: what became of the caller's SMS. Server B knows, and is asked.

use std::collections::BTreeMap;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::{Extension, Json};
use service_runtime::problem::{Problem, openapi};
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};
use utoipa::openapi::RefOr;
use utoipa::openapi::response::Response;
use utoipa::{IntoParams, IntoResponses};
use uuid::Uuid;
use wire_contract::{SmsPage, SmsRecord, SmsStatus};

use super::auth::ClientContext;
use super::problems::{self, RATE_LIMITED, SMS_NOT_FOUND, STATUS_UNAVAILABLE};
use crate::server_b::{AskError, ServerB};

/// SMS in a page at most, and where nothing is said.
const MAX_PAGE: u16 = 100;
const DEFAULT_PAGE: u16 = 50;
/// Characters of a cursor at most.
const MAX_CURSOR: usize = 256;
/// Seconds after which a client may ask again.
const RETRY_SECS: u32 = 2;

const NOT_AN_ID: &str = "no SMS has this id: a message_id is a UUID";
const A_TIME: &str = "must be a time such as 2026-03-01T12:00:00Z (RFC 3339)";

/// Describes the parameters, which [`parameters`] reads.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes what `parameters` reads")]
pub struct ListQuery {
    /// `next_cursor` of the page before
    #[param(min_length = 1, max_length = 256)]
    cursor: Option<String>,
    /// SMS of the page at most
    #[param(minimum = 1, maximum = 100, default = 50)]
    limit: Option<u16>,
    /// Only SMS that are there now
    #[param(inline)]
    status: Option<SmsStatus>,
    /// Only SMS submitted at this time or later
    #[param(value_type = Option<String>, format = DateTime)]
    from_time: Option<OffsetDateTime>,
    /// Only SMS submitted before this time
    #[param(value_type = Option<String>, format = DateTime)]
    to_time: Option<OffsetDateTime>,
}

struct OneProblems;
impl IntoResponses for OneProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        openapi::responses(&problems::of_one())
    }
}

struct ListProblems;
impl IntoResponses for ListProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        openapi::responses(&problems::of_list())
    }
}

/// What became of an SMS
///
/// An SMS that was accepted a moment ago may not be found yet.
#[utoipa::path(
    get,
    path = "/api/v1/sms/{message_id}",
    params(("message_id" = Uuid, Path, description = "Of the answer to the send")),
    responses((status = 200, description = "The SMS", body = SmsRecord), OneProblems),
    security(("api_key" = []), ("bearer" = []))
)]
pub async fn one(
    State(server_b): State<ServerB>,
    Extension(client): Extension<ClientContext>,
    message_id: Result<Path<Uuid>, PathRejection>,
) -> Result<Json<SmsRecord>, Problem> {
    let Path(message_id) = message_id.map_err(|_| Problem::of(&SMS_NOT_FOUND, NOT_AN_ID))?;
    let record = server_b.one(client.user_id, message_id).await;
    record.map(Json).map_err(problem)
}

/// The caller's SMS, the newest first
#[utoipa::path(
    get,
    path = "/api/v1/sms",
    params(ListQuery),
    responses((status = 200, description = "A page of them", body = SmsPage), ListProblems),
    security(("api_key" = []), ("bearer" = []))
)]
pub async fn list(
    State(server_b): State<ServerB>,
    Extension(client): Extension<ClientContext>,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Json<SmsPage>, Problem> {
    let Query(query) =
        query.map_err(|_| Problem::invalid_field("query", "is not a query of a URL"))?;
    let parameters = parameters(query)?;
    let page = server_b.list(client.user_id, &parameters).await;
    page.map(Json).map_err(problem)
}

fn problem(error: AskError) -> Problem {
    match error {
        AskError::NotFound => Problem::of(&SMS_NOT_FOUND, "you have no SMS with this id"),
        AskError::Invalid { field, detail } => Problem::invalid_field(field, detail),
        AskError::TooMany => {
            let detail = "this user's questions about SMS at one moment are too many";
            Problem::of(&RATE_LIMITED, detail).with_retry_after(1)
        }
        AskError::Unavailable(_) => {
            let detail = "what became of SMS cannot be told now; sending is not affected";
            Problem::of(&STATUS_UNAVAILABLE, detail).with_retry_after(RETRY_SECS)
        }
    }
}

/// Checks what can be checked here, and gives what server B is asked with.
fn parameters(query: Vec<(String, String)>) -> Result<Vec<(&'static str, String)>, Problem> {
    let mut given = Vec::<(&'static str, String)>::new();
    for (name, value) in query {
        let (name, value) = match name.as_str() {
            "cursor" => ("cursor", cursor(value)),
            "limit" => ("limit", limit(&value)),
            "status" => ("status", status(&value)),
            "from_time" => ("from_time", a_time(&value)),
            "to_time" => ("to_time", a_time(&value)),
            _ => {
                let shown: String = name.chars().take(64).collect();
                let rule = "is no parameter; these are: cursor, limit, status, from_time, to_time";
                return Err(Problem::invalid_field(shown, rule));
            }
        };
        if given.iter().any(|(earlier, _)| *earlier == name) {
            return Err(Problem::invalid_field(name, "must be given once"));
        }
        let value = value.map_err(|rule| Problem::invalid_field(name, rule))?;
        given.push((name, value));
    }
    if given.iter().all(|(name, _)| *name != "limit") {
        given.push(("limit", DEFAULT_PAGE.to_string()));
    }
    Ok(given)
}

fn cursor(text: String) -> Result<String, String> {
    let valid = (1..=MAX_CURSOR).contains(&text.chars().count());
    let rule = || "must be a next_cursor of this list".to_owned();
    valid.then_some(text).ok_or_else(rule)
}

fn limit(text: &str) -> Result<String, String> {
    let number = text.parse().ok().filter(|it| (1..=MAX_PAGE).contains(it));
    let number = number.map(|it: u16| it.to_string());
    number.ok_or_else(|| format!("must be an integer from 1 to {MAX_PAGE}"))
}

fn status(text: &str) -> Result<String, String> {
    let status = text
        .parse::<SmsStatus>()
        .map_err(|error| error.to_string())?;
    Ok(status.as_str().to_owned())
}

fn a_time(text: &str) -> Result<String, String> {
    // A + that was not escaped arrives as a space.
    let time = OffsetDateTime::parse(&text.replace(' ', "+"), &Rfc3339);
    // What lies beyond the last year in UTC is no time that anything was submitted at.
    let time = time
        .ok()
        .and_then(|time| time.checked_to_offset(UtcOffset::UTC))
        .and_then(|time| time.format(&Rfc3339).ok());
    time.ok_or_else(|| A_TIME.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<String, String> {
        let pairs = query.split('&').filter(|it| !it.is_empty());
        let pairs = pairs.map(|pair| pair.split_once('=').expect("a pair"));
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let given = parameters(pairs.collect()).map_err(|problem| format!("{problem:?}"))?;
        let given = given.iter().map(|(name, value)| format!("{name}={value}"));
        Ok(given.collect::<Vec<_>>().join("&"))
    }

    #[test]
    fn parameters_are_checked_and_passed_on() {
        for (query, expected) in [
            ("", "limit=50"),
            ("limit=7&cursor=abc", "limit=7&cursor=abc"),
            ("status=delivered&limit=100", "status=delivered&limit=100"),
            (
                "from_time=2026-03-01T12:00:00 01:00&to_time=2026-03-02T00:00:00Z&limit=1",
                "from_time=2026-03-01T11:00:00Z&to_time=2026-03-02T00:00:00Z&limit=1",
            ),
        ] {
            assert_eq!(read(query).as_deref(), Ok(expected), "{query}");
        }
    }

    #[test]
    fn the_parameter_at_fault_is_named() {
        let long = format!("cursor={}", "c".repeat(257));
        for (query, field) in [
            ("limit=0", "limit"),
            ("limit=101", "limit"),
            ("limit=many", "limit"),
            ("limit=1&limit=2", "limit"),
            ("cursor=", "cursor"),
            (&long, "cursor"),
            ("status=lost", "status"),
            ("from_time=yesterday", "from_time"),
            ("to_time=2026-03-01", "to_time"),
            ("from_time=9999-12-31T23:59:59-01:00", "from_time"),
            ("to_time=0000-01-01T00:00:00+01:00", "to_time"),
            ("offset=1", "offset"),
        ] {
            let problem = read(query).expect_err(query);
            assert!(
                problem.contains(&format!("field: Some(\"{field}\")")),
                "{problem}"
            );
        }
    }
}
