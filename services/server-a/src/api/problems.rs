//! Every kind of problem that server A answers with. `ERRORS.md` is made from it, and so is `/errors`.

use axum::http::StatusCode;
pub use service_runtime::problem::{
    INTERNAL, INVALID_FIELD, METHOD_NOT_ALLOWED, NOT_FOUND, ProblemType, UNAUTHORIZED,
};

pub static USER_INACTIVE: ProblemType = ProblemType {
    code: "user_inactive",
    status: StatusCode::FORBIDDEN,
    title: "The user is not active",
    retry: false,
    help: "The key is known, but its user may not use the API until an administrator activates it.",
};
pub static MALFORMED_JSON: ProblemType = ProblemType {
    code: "malformed_json",
    status: StatusCode::BAD_REQUEST,
    title: "The body is not the JSON object that is expected",
    retry: false,
    help: "`detail` says where; the body itself is not repeated.",
};
pub static BODY_UNREADABLE: ProblemType = ProblemType {
    code: "body_unreadable",
    status: StatusCode::BAD_REQUEST,
    title: "The body broke off",
    retry: true,
    help: "Nothing was queued. Send the request again as it is.",
};
pub static BODY_TIMEOUT: ProblemType = ProblemType {
    code: "body_timeout",
    status: StatusCode::REQUEST_TIMEOUT,
    title: "The body did not arrive in time",
    retry: true,
    help: "Nothing was queued. Send the request again as it is; its body must arrive within 5 s.",
};
pub static BODY_TOO_LARGE: ProblemType = ProblemType {
    code: "body_too_large",
    status: StatusCode::PAYLOAD_TOO_LARGE,
    title: "The body is too large",
    retry: false,
    help: "16 KiB are enough for the longest SMS.",
};
pub static UNSUPPORTED_MEDIA_TYPE: ProblemType = ProblemType {
    code: "unsupported_media_type",
    status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
    title: "The body is not said to be JSON",
    retry: false,
    help: "Send JSON with the header `Content-Type: application/json`.",
};
pub static IDEMPOTENCY_CONFLICT: ProblemType = ProblemType {
    code: "idempotency_conflict",
    status: StatusCode::CONFLICT,
    title: "The idempotency key belongs to another SMS",
    retry: false,
    help: "The user has sent another content with this `Idempotency-Key`. Nothing was queued; that SMS stays as it is, and `message_id` names it. Take a new key for a new SMS.",
};
pub static QUOTA_EXCEEDED: ProblemType = ProblemType {
    code: "quota_exceeded",
    status: StatusCode::TOO_MANY_REQUESTS,
    title: "The daily quota is used up",
    retry: true,
    help: "The SMS has more segments than are left of today's quota; nothing was queued. The quota is full again after `Retry-After`, at midnight UTC; without that header the SMS has more segments than a whole day's quota, and only a higher quota or a shorter text helps. `RateLimit` tells what is left.",
};
pub static RATE_LIMITED: ProblemType = ProblemType {
    code: "rate_limited",
    status: StatusCode::TOO_MANY_REQUESTS,
    title: "Too many requests of one user",
    retry: true,
    help: "Nothing was done. Try again after `Retry-After`, and more slowly.",
};
pub static CACHE_NOT_READY: ProblemType = ProblemType {
    code: "cache_not_ready",
    status: StatusCode::SERVICE_UNAVAILABLE,
    title: "The server does not know the users for certain",
    retry: true,
    help: "The server cannot authenticate anybody for now; nothing was queued.",
};
pub static QUEUE_UNAVAILABLE: ProblemType = ProblemType {
    code: "queue_unavailable",
    status: StatusCode::SERVICE_UNAVAILABLE,
    title: "The SMS could not be queued",
    retry: true,
    help: "The message broker is away, takes nothing, or has no queue for it. Nothing was queued.",
};
pub static NOT_CONFIRMED: ProblemType = ProblemType {
    code: "not_confirmed",
    status: StatusCode::SERVICE_UNAVAILABLE,
    title: "Whether the SMS was queued is not known",
    retry: true,
    help: "The SMS may have been queued as `message_id`. Ask for it later; a second try without an `Idempotency-Key` may send it twice, one with the same key does not.",
};
pub static OVERLOADED: ProblemType = ProblemType {
    code: "overloaded",
    status: StatusCode::SERVICE_UNAVAILABLE,
    title: "Too many requests in hand",
    retry: true,
    help: "Nothing was done.",
};
pub static TIMEOUT: ProblemType = ProblemType {
    code: "timeout",
    status: StatusCode::SERVICE_UNAVAILABLE,
    title: "The request took too long",
    retry: true,
    help: "An SMS may have been queued: a second try without an `Idempotency-Key` may send it twice, one with the same key does not.",
};
pub static SMS_NOT_FOUND: ProblemType = ProblemType {
    code: "sms_not_found",
    status: StatusCode::NOT_FOUND,
    title: "The user has no such SMS",
    retry: true,
    help: "The SMS was accepted a moment ago and is not stored yet: ask again shortly. Otherwise the user has sent none with this id, or it was so long ago that it is forgotten.",
};
pub static STATUS_UNAVAILABLE: ProblemType = ProblemType {
    code: "status_unavailable",
    status: StatusCode::SERVICE_UNAVAILABLE,
    title: "What became of SMS cannot be told now",
    retry: true,
    help: "The server that knows is away, slow, or not configured. Sending is not affected.",
};

/// What any request with a key can be answered with.
const AUTHENTICATED: [&ProblemType; 7] = [
    &UNAUTHORIZED,
    &USER_INACTIVE,
    &RATE_LIMITED,
    &INTERNAL,
    &CACHE_NOT_READY,
    &OVERLOADED,
    &TIMEOUT,
];
/// What only sends can be answered with.
const SENDING: [&ProblemType; 10] = [
    &MALFORMED_JSON,
    &BODY_UNREADABLE,
    &BODY_TIMEOUT,
    &IDEMPOTENCY_CONFLICT,
    &BODY_TOO_LARGE,
    &UNSUPPORTED_MEDIA_TYPE,
    &INVALID_FIELD,
    &QUOTA_EXCEEDED,
    &QUEUE_UNAVAILABLE,
    &NOT_CONFIRMED,
];
/// What belongs to no operation.
const ROUTING: [&ProblemType; 2] = [&NOT_FOUND, &METHOD_NOT_ALLOWED];

/// Of `POST /api/v1/sms/send`.
#[must_use]
pub fn of_send() -> Vec<&'static ProblemType> {
    [AUTHENTICATED.as_slice(), &SENDING].concat()
}

/// Of `GET /api/v1/sms/{message_id}`.
#[must_use]
pub fn of_one() -> Vec<&'static ProblemType> {
    [
        AUTHENTICATED.as_slice(),
        &[&SMS_NOT_FOUND, &STATUS_UNAVAILABLE],
    ]
    .concat()
}

/// Of `GET /api/v1/sms`.
#[must_use]
pub fn of_list() -> Vec<&'static ProblemType> {
    [
        AUTHENTICATED.as_slice(),
        &[&INVALID_FIELD, &STATUS_UNAVAILABLE],
    ]
    .concat()
}

/// All.
#[must_use]
pub fn catalogue() -> Vec<&'static ProblemType> {
    let of_status = [&SMS_NOT_FOUND, &STATUS_UNAVAILABLE];
    [AUTHENTICATED.as_slice(), &SENDING, &ROUTING, &of_status].concat()
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
            &markdown_page("server A", &catalogue()),
        );
    }
}
