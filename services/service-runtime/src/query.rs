//! Parameters in the query of a URL, read as texts so that an error names the one at fault.

use std::str::FromStr;

use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::problem::Problem;

/// Characters of a name that an error repeats at most.
const MAX_NAME: usize = 64;

/// The parameters, of which each is a text: 422 for one that there is none of, or that is given twice.
///
/// # Errors
/// Tells its name.
pub fn known<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Problem> {
    query
        .map(|Query(query)| query)
        .map_err(|rejection| explain(&rejection.body_text()))
}

/// Since all values are texts, only a name can be wrong, and serde puts it between backticks.
fn explain(text: &str) -> Problem {
    let name = text.split('`').nth(1).unwrap_or("query");
    let name: String = name.chars().take(MAX_NAME).collect();
    let rule = if text.contains(": duplicate field `") {
        "must be given once"
    } else {
        "is no parameter of this path"
    };
    Problem::invalid_field(name, rule)
}

/// One of them.
///
/// # Errors
/// When it is not what it must be.
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
///
/// # Errors
/// When it is none.
pub fn time(name: &str, text: Option<String>) -> Result<Option<OffsetDateTime>, Problem> {
    text.map(|text| {
        OffsetDateTime::parse(&text, &Rfc3339).map_err(|_| {
            Problem::invalid_field(name, "must be a time such as 2027-01-31T00:00:00Z")
        })
    })
    .transpose()
}

#[cfg(test)]
mod tests {
    use axum::http::Uri;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Two {
        #[serde(rename = "a")]
        _a: Option<String>,
        #[serde(rename = "b")]
        _b: Option<String>,
    }

    #[test]
    fn what_is_unknown_or_given_twice_is_named() {
        for (query, field, rule) in [
            ("c=1", "c", "no parameter"),
            ("a=1&a=2", "a", "once"),
            ("duplicate%20field=a", "duplicate field", "no parameter"),
        ] {
            let uri: Uri = format!("/?{query}").parse().expect("a URI");
            let problem = known(Query::<Two>::try_from_uri(&uri)).expect_err(query);
            let told = format!("{problem:?}");
            assert!(told.contains(&format!("Some(\"{field}\")")), "{told}");
            assert!(told.contains(rule), "{told}");
        }
        let uri = Uri::from_static("/?a=1&b=");
        assert!(known(Query::<Two>::try_from_uri(&uri)).is_ok());
    }
}
