//! Metrics of the SMS API, in the default registry. Labels are bounded: no user, key or number.

use std::sync::LazyLock;

use prometheus::{
    HistogramVec, IntCounter, IntCounterVec, register_histogram_vec, register_int_counter,
    register_int_counter_vec,
};

/// Seconds; the buckets of the OpenTelemetry semantic conventions for HTTP.
const DURATION_BUCKETS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

/// `http_server_request_duration_seconds{method,route,status}`: from the headers of a request until
/// its answer, also when the client did not wait for it.
pub static REQUEST_DURATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    register_histogram_vec!(
        "http_server_request_duration_seconds",
        "Duration of HTTP requests by method, route and status",
        &["method", "route", "status"],
        DURATION_BUCKETS.to_vec()
    )
    .expect("the name is valid and registered once")
});

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
