//! Metrics of the SMS API, in the default registry. Labels are bounded: no user, key or number.

use std::sync::LazyLock;

use prometheus::{IntCounter, IntCounterVec, register_int_counter, register_int_counter_vec};

use crate::api::problems;

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

/// Makes the series known from the start: an increase from nothing is not seen by a rate.
pub fn register() {
    LazyLock::force(&SMS_ACCEPTED);
    // The route can also be asked with a method that it does not take.
    for problem in problems::of_send()
        .into_iter()
        .chain([&problems::METHOD_NOT_ALLOWED])
    {
        SMS_REJECTED.with_label_values(&[problem.code]);
    }
}
