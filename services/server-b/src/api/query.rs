//! Parameters of lists, read so that an error names the one at fault.

use std::str::FromStr;

use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::StatusCode;
use service_runtime::problem::Problem;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// 400 for a parameter that there is none of.
pub fn known<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Problem> {
    let unknown = |error: QueryRejection| {
        Problem::new(StatusCode::BAD_REQUEST, "invalid_query", error.body_text())
    };
    query.map(|Query(query)| query).map_err(unknown)
}

/// A parameter of a list.
pub fn parameter<T: FromStr>(
    name: &str,
    text: Option<String>,
    must_be: &str,
) -> Result<Option<T>, Problem> {
    text.map(|text| {
        text.parse()
            .map_err(|_| Problem::invalid_field(name, must_be))
    })
    .transpose()
}

/// A time as of RFC 3339.
pub fn time(name: &str, text: Option<String>) -> Result<Option<OffsetDateTime>, Problem> {
    text.map(|text| {
        OffsetDateTime::parse(&text, &Rfc3339).map_err(|_| {
            Problem::invalid_field(name, "must be a time such as 2027-01-31T00:00:00Z")
        })
    })
    .transpose()
}
