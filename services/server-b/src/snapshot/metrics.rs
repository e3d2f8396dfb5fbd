//! Metrics of snapshots, at the server B that sends them.

use std::sync::LazyLock;
use std::time::Duration;

use prometheus::{
    Histogram, IntCounter, IntCounterVec, register_histogram, register_int_counter,
    register_int_counter_vec,
};

/// A million users take seconds.
const READ_BUCKETS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0,
];

static SENT: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "identity_snapshots_sent_total",
        "Snapshots for one replica each, by outcome",
        &["outcome"]
    )
    .expect("registered once")
});
/// Reads begun.
pub(super) static READS: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "identity_snapshot_reads_total",
        "Reads of all users for snapshots; one serves all replicas that asked together"
    )
    .expect("registered once")
});
static READ_DURATION: LazyLock<Histogram> = LazyLock::new(|| {
    register_histogram!(
        "identity_snapshot_read_duration_seconds",
        "Time that reading all users for snapshots took",
        READ_BUCKETS.to_vec()
    )
    .expect("registered once")
});

/// Makes the series known from the start: an increase from nothing is not seen by a rate.
pub(crate) fn register() {
    for outcome in ["completed", "failed"] {
        SENT.with_label_values(&[outcome]);
    }
    LazyLock::force(&READS);
    LazyLock::force(&READ_DURATION);
}

pub(super) fn read_in(duration: Duration) {
    READ_DURATION.observe(duration.as_secs_f64());
}

pub(super) fn completed() {
    SENT.with_label_values(&["completed"]).inc();
}

pub(super) fn failed(replicas: usize) {
    SENT.with_label_values(&["failed"]).inc_by(replicas as u64);
}
