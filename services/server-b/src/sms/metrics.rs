//! Metrics of the SMS path.

use std::sync::LazyLock;

use prometheus::{
    Histogram, IntCounter, IntCounterVec, register_histogram, register_int_counter,
    register_int_counter_vec,
};

const REGISTERED_ONCE: &str = "each metric has one name and is registered once";

/// From a healthy queue's milliseconds to a backlog of hours.
const QUEUE_AGE_BUCKETS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0, 3600.0, 21_600.0,
];

/// Deliveries taken from the queue.
pub static RECEIVED: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "identity_sms_received_total",
        "SMS deliveries taken from sms_outbound_queue, redeliveries included"
    )
    .expect(REGISTERED_ONCE)
});

/// Rows written.
pub static STORED: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!("identity_sms_stored_total", "SMS stored in sms_messages")
        .expect(REGISTERED_ONCE)
});

/// Deliveries of an SMS that had its row.
pub static DUPLICATES: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "identity_sms_duplicates_total",
        "SMS deliveries whose message_id was already stored"
    )
    .expect(REGISTERED_ONCE)
});

/// Dead letters; label `reason` is a `DeadReason::label`.
pub static DEAD_LETTERED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "identity_sms_dead_lettered_total",
        "SMS deliveries moved to sms_outbound_queue.dead",
        &["reason"]
    )
    .expect(REGISTERED_ONCE)
});

/// Outcomes stored; labels are a `Provider::name` (`none` before one was asked) and an outcome.
pub static DISPATCHED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "identity_sms_dispatched_total",
        "Outcomes of handing SMS to a provider",
        &["provider", "outcome"]
    )
    .expect(REGISTERED_ONCE)
});

/// What server A let in although the user had been deactivated before: how far its cache was behind.
pub static ADMITTED_LATE: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "identity_sms_admitted_after_revocation_total",
        "SMS admitted by a replica after their user had been deactivated, and rejected here"
    )
    .expect(REGISTERED_ONCE)
});

/// Time in the queue.
pub static QUEUE_AGE: LazyLock<Histogram> = LazyLock::new(|| {
    register_histogram!(
        "identity_sms_queue_age_seconds",
        "From the submission of an SMS at server A to its reception",
        QUEUE_AGE_BUCKETS.to_vec()
    )
    .expect(REGISTERED_ONCE)
});
