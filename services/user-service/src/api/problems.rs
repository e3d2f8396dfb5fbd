//! Every kind of problem that user-service answers with; `/errors` is made from it.

use axum::http::StatusCode;
use service_runtime::problem::{
    DATABASE_UNAVAILABLE, INTERNAL, INVALID_FIELD, METHOD_NOT_ALLOWED, NOT_FOUND, ProblemType,
};

pub static REFERENCE_NOT_FOUND: ProblemType = ProblemType {
    code: "reference_not_found",
    status: StatusCode::NOT_FOUND,
    title: "There is no reference of this user",
    retry: false,
    help: "The auth-service has created no such user, or its event has not arrived yet.",
};
pub static TIMEOUT: ProblemType = ProblemType {
    code: "timeout",
    status: StatusCode::SERVICE_UNAVAILABLE,
    title: "The request took too long",
    retry: true,
    help: "Try again after `Retry-After`.",
};

/// What any operation may meet.
const OF_ANY: [&ProblemType; 3] = [&INTERNAL, &DATABASE_UNAVAILABLE, &TIMEOUT];

/// Of `GET /api/v1/auth-user-references`.
pub fn of_list() -> Vec<&'static ProblemType> {
    [OF_ANY.as_slice(), &[&INVALID_FIELD]].concat()
}

/// Of `GET /api/v1/auth-user-references/{user_id}`.
pub fn of_one() -> Vec<&'static ProblemType> {
    [OF_ANY.as_slice(), &[&REFERENCE_NOT_FOUND]].concat()
}

/// All.
pub fn catalogue() -> Vec<&'static ProblemType> {
    let beside = [
        &INVALID_FIELD,
        &REFERENCE_NOT_FOUND,
        &NOT_FOUND,
        &METHOD_NOT_ALLOWED,
    ];
    [OF_ANY.as_slice(), &beside].concat()
}

#[cfg(test)]
mod tests {
    use service_runtime::problem::markdown_page;
    use test_support::error_page;

    use super::*;

    #[test]
    fn the_page_is_what_the_code_says() {
        error_page::check(
            env!("CARGO_MANIFEST_DIR"),
            &markdown_page("user-service", &catalogue()),
        );
    }
}
