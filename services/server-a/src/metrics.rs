//! Metrics of the SMS API, in the default registry. Labels are bounded: no user, key or number.

use std::sync::LazyLock;

use prometheus::{IntCounter, IntCounterVec, register_int_counter, register_int_counter_vec};

/// `identity_sms_accepted_total`: SMS whose storage the broker has confirmed.
pub static SMS_ACCEPTED: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "identity_sms_accepted_total",
        "SMS accepted and confirmed by the broker"
    )
    .expect("the name is valid and registered once")
});

/// `identity_sms_rejected_total{reason}`: sends that were answered with an error; the reason is the
/// `code` of the problem.
pub static SMS_REJECTED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "identity_sms_rejected_total",
        "Sends answered with an error, by the code of the problem",
        &["reason"]
    )
    .expect("the name is valid and registered once")
});

/// Codes of the problems that a send can be answered with.
const REASONS: [&str; 15] = [
    "unauthorized",
    "user_inactive",
    "invalid_field",
    "malformed_json",
    "body_unreadable",
    "method_not_allowed",
    "body_timeout",
    "body_too_large",
    "unsupported_media_type",
    "internal",
    "cache_not_ready",
    "queue_unavailable",
    "overloaded",
    "not_confirmed",
    "timeout",
];

/// Makes the series known from the start: an increase from nothing is not seen by a rate.
pub fn register() {
    LazyLock::force(&SMS_ACCEPTED);
    for reason in REASONS {
        SMS_REJECTED.with_label_values(&[reason]);
    }
}
