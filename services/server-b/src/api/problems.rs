//! Every kind of problem that server B answers with. `ERRORS.md` is made from it, and so is `/errors`.

use axum::http::StatusCode;
pub use service_runtime::problem::{
    DATABASE_UNAVAILABLE, INTERNAL, INVALID_FIELD, METHOD_NOT_ALLOWED, NOT_FOUND, ProblemType,
    UNAUTHORIZED,
};

pub static FORBIDDEN: ProblemType = ProblemType {
    code: "forbidden",
    status: StatusCode::FORBIDDEN,
    title: "The token may only read",
    retry: false,
    help: "The token has the role `reader`. Changes need one with the role `admin`.",
};
pub static MALFORMED_JSON: ProblemType = ProblemType {
    code: "malformed_json",
    status: StatusCode::BAD_REQUEST,
    title: "The body is not the JSON object that is expected",
    retry: false,
    help: "`detail` says where; the body itself is not repeated.",
};
pub static BODY_TOO_LARGE: ProblemType = ProblemType {
    code: "body_too_large",
    status: StatusCode::PAYLOAD_TOO_LARGE,
    title: "The body is too large",
    retry: false,
    help: "The admin API takes 16 KiB, a delivery receipt may have 64 KiB.",
};
pub static UNSUPPORTED_MEDIA_TYPE: ProblemType = ProblemType {
    code: "unsupported_media_type",
    status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
    title: "The body is not said to be JSON",
    retry: false,
    help: "Send JSON with the header `Content-Type: application/json`.",
};
pub static INVALID_IF_MATCH: ProblemType = ProblemType {
    code: "invalid_if_match",
    status: StatusCode::BAD_REQUEST,
    title: "The header If-Match cannot be read",
    retry: false,
    help: "It must be the `ETag` of the user as it was read, such as `\"17\"`, several of them, or `*`. Nothing was changed.",
};
pub static VERSION_CHANGED: ProblemType = ProblemType {
    code: "version_changed",
    status: StatusCode::PRECONDITION_FAILED,
    title: "The user was changed meanwhile",
    retry: false,
    help: "Nothing was changed. Read the user again, and send its new `ETag` in `If-Match`.",
};
pub static USER_NOT_FOUND: ProblemType = ProblemType {
    code: "user_not_found",
    status: StatusCode::NOT_FOUND,
    title: "There is no such user",
    retry: false,
    help: "No user has this `user_id`, or it was deleted. An id is never used twice.",
};
pub static KEY_NOT_FOUND: ProblemType = ProblemType {
    code: "key_not_found",
    status: StatusCode::NOT_FOUND,
    title: "The user has no such key",
    retry: false,
    help: "The key was revoked or replaced, or is another user's. The list of the user's keys has their ids.",
};
pub static TOKEN_NOT_FOUND: ProblemType = ProblemType {
    code: "token_not_found",
    status: StatusCode::NOT_FOUND,
    title: "There is no such token",
    retry: false,
    help: "No token has this name.",
};
pub static SYNC_NOT_FOUND: ProblemType = ProblemType {
    code: "sync_not_found",
    status: StatusCode::NOT_FOUND,
    title: "There is no such full sync",
    retry: false,
    help: "No full sync has this id.",
};
pub static SMS_NOT_FOUND: ProblemType = ProblemType {
    code: "sms_not_found",
    status: StatusCode::NOT_FOUND,
    title: "There is no such SMS",
    retry: false,
    help: "No SMS with this id was stored, it still waits in the queue, or it was so long ago that it is forgotten.",
};
pub static PROVIDER_NOT_FOUND: ProblemType = ProblemType {
    code: "provider_not_found",
    status: StatusCode::NOT_FOUND,
    title: "There is no such provider",
    retry: false,
    help: "No provider of this name is configured to send delivery receipts.",
};
pub static USERNAME_TAKEN: ProblemType = ProblemType {
    code: "username_taken",
    status: StatusCode::CONFLICT,
    title: "Another user has this name",
    retry: false,
    help: "Nothing was changed. Names are unique.",
};
pub static API_KEY_TAKEN: ProblemType = ProblemType {
    code: "api_key_taken",
    status: StatusCode::CONFLICT,
    title: "The API key is in use",
    retry: false,
    help: "Nothing was changed. A key is one user's at a time.",
};
pub static NAME_TAKEN: ProblemType = ProblemType {
    code: "name_taken",
    status: StatusCode::CONFLICT,
    title: "Another token has this name",
    retry: false,
    help: "No token was made. Names stay taken when their tokens are revoked.",
};
pub static RECEIPT_NOT_UNDERSTOOD: ProblemType = ProblemType {
    code: "receipt_not_understood",
    status: StatusCode::UNPROCESSABLE_ENTITY,
    title: "The delivery receipt lacks what the configuration expects",
    retry: false,
    help: "`detail` names what is missing. Look at `receipts` of this provider in the providers file.",
};
pub static TIMEOUT: ProblemType = ProblemType {
    code: "timeout",
    status: StatusCode::SERVICE_UNAVAILABLE,
    title: "The request took too long",
    retry: true,
    help: "A change may still be made: look before you try again.",
};

/// What the admin API is described with, by operation; `openapi` adds what any request may meet.
const OF_OPERATIONS: [&ProblemType; 9] = [
    &USER_NOT_FOUND,
    &KEY_NOT_FOUND,
    &TOKEN_NOT_FOUND,
    &SYNC_NOT_FOUND,
    &SMS_NOT_FOUND,
    &USERNAME_TAKEN,
    &API_KEY_TAKEN,
    &NAME_TAKEN,
    &VERSION_CHANGED,
];
/// What belongs to no operation, or to none of the admin API.
pub const BESIDE: [&ProblemType; 4] = [
    &NOT_FOUND,
    &METHOD_NOT_ALLOWED,
    &PROVIDER_NOT_FOUND,
    &RECEIPT_NOT_UNDERSTOOD,
];

/// What any operation of the admin API may meet.
pub const OF_ANY: [&ProblemType; 4] = [&UNAUTHORIZED, &INTERNAL, &DATABASE_UNAVAILABLE, &TIMEOUT];
/// Those that write, besides.
pub const OF_WRITES: [&ProblemType; 1] = [&FORBIDDEN];
/// Those with a body, besides.
pub const WITH_BODY: [&ProblemType; 3] =
    [&MALFORMED_JSON, &BODY_TOO_LARGE, &UNSUPPORTED_MEDIA_TYPE];
/// Those with the header `If-Match`, besides.
pub const WITH_IF_MATCH: [&ProblemType; 1] = [&INVALID_IF_MATCH];
/// Those with a body or parameters in the query, besides.
pub const WITH_FIELDS: [&ProblemType; 1] = [&INVALID_FIELD];

/// All.
pub fn catalogue() -> Vec<&'static ProblemType> {
    [
        OF_ANY.as_slice(),
        &OF_WRITES,
        &WITH_BODY,
        &WITH_IF_MATCH,
        &WITH_FIELDS,
        &OF_OPERATIONS,
        &BESIDE,
    ]
    .concat()
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
            &markdown_page("server B", &catalogue()),
        );
    }
}
