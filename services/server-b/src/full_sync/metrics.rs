//! Metrics of full syncs, at the server B that runs them.

use std::sync::LazyLock;
use std::time::Duration;

use prometheus::{
    Histogram, IntCounter, IntCounterVec, register_histogram, register_int_counter,
    register_int_counter_vec,
};

/// From a few users to a million, paced by the slowest replica.
const DURATION_BUCKETS: &[f64] = &[
    0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0,
];

static SYNCS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "identity_full_syncs_total",
        "Full syncs run by this process, by outcome",
        &["outcome"]
    )
    .expect("registered once")
});
static DURATION: LazyLock<Histogram> = LazyLock::new(|| {
    register_histogram!(
        "identity_full_sync_duration_seconds",
        "From the start of a full sync until all of it was confirmed",
        DURATION_BUCKETS.to_vec()
    )
    .expect("registered once")
});
/// Users handed to the publisher.
pub(super) static USERS: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "identity_full_sync_users_total",
        "Users published by full syncs"
    )
    .expect("registered once")
});

/// Makes the series known from the start: an increase from nothing is not seen by a rate.
pub(crate) fn register() {
    for outcome in ["completed", "failed"] {
        SYNCS.with_label_values(&[outcome]);
    }
    LazyLock::force(&DURATION);
    LazyLock::force(&USERS);
}

pub(super) fn completed(after: Duration) {
    SYNCS.with_label_values(&["completed"]).inc();
    DURATION.observe(after.as_secs_f64());
}

pub(super) fn failed() {
    SYNCS.with_label_values(&["failed"]).inc();
}
