//! Problems in an OpenAPI document, made from the catalogue.

use std::collections::BTreeMap;

use utoipa::ToSchema;
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::{ContentBuilder, Header, HeaderBuilder, ObjectBuilder, Ref, RefOr, Type};

use super::ProblemType;

/// Media type of every problem.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// An error (RFC 9457).
#[derive(ToSchema)]
#[schema(as = Problem)]
#[expect(dead_code, reason = "describes what `Problem` writes")]
pub struct ProblemBody {
    /// What kind of problem it is: a path on the server that answered
    r#type: String,
    /// What it is, the same each time
    title: String,
    /// The HTTP status
    status: u16,
    /// What exactly is wrong
    detail: String,
    /// Stable, for programs
    code: String,
    /// Whether the same request may succeed later
    retry: bool,
    /// The field, parameter or header at fault
    field: Option<String>,
    /// The SMS that may exist although the request failed
    message_id: Option<String>,
}

/// The answers to an operation that fails in one of these ways: one a status, which names the codes.
#[must_use]
pub fn responses(types: &[&ProblemType]) -> BTreeMap<String, RefOr<Response>> {
    let mut by_status = BTreeMap::<u16, Vec<&ProblemType>>::new();
    for kind in types {
        by_status
            .entry(kind.status.as_u16())
            .or_default()
            .push(kind);
    }
    let response = |(status, kinds): (u16, Vec<&ProblemType>)| {
        (status.to_string(), RefOr::T(response(status, &kinds)))
    };
    by_status.into_iter().map(response).collect()
}

fn response(status: u16, kinds: &[&ProblemType]) -> Response {
    let codes = kinds
        .iter()
        .map(|kind| format!("`{}`: {}", kind.code, kind.title));
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name("Problem")))
        .build();
    let mut response = ResponseBuilder::new()
        .description(codes.collect::<Vec<_>>().join("; "))
        .content(MEDIA_TYPE, content);
    for (name, of_type, meaning) in headers(status) {
        response = response.header(*name, header(of_type.clone(), meaning));
    }
    response.build()
}

/// Headers besides that of the content: name, type, meaning.
fn headers(status: u16) -> &'static [(&'static str, Type, &'static str)] {
    match status {
        401 => &[(
            "WWW-Authenticate",
            Type::String,
            "How to authenticate (RFC 9110)",
        )],
        405 => &[("Allow", Type::String, "The methods that the path takes")],
        429 | 503 => &[(
            "Retry-After",
            Type::Integer,
            "Seconds until another try makes sense",
        )],
        _ => &[],
    }
}

/// A header of an answer.
#[must_use]
pub fn header(of_type: Type, meaning: &str) -> Header {
    let schema = ObjectBuilder::new().schema_type(of_type).build();
    HeaderBuilder::new()
        .schema(Some(schema))
        .description(Some(meaning))
        .build()
}
