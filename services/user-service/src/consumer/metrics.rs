//! Metrics of the consumer.

use std::sync::LazyLock;
use std::time::Instant;

use parking_lot::Mutex;
use prometheus::{
    Gauge, IntCounter, IntCounterVec, register_gauge, register_int_counter,
    register_int_counter_vec,
};
use service_runtime::intake::DeadReason;

const REGISTERED_ONCE: &str = "each metric has one name and is registered once";

/// Deliveries taken from the queue.
pub static RECEIVED: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "user_service_events_received_total",
        "Deliveries taken from the queue of UserCreated, redeliveries included"
    )
    .expect(REGISTERED_ONCE)
});

/// Those of them that some consumer was given before.
pub static REDELIVERED: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "user_service_events_redelivered_total",
        "Deliveries that had been given to a consumer before"
    )
    .expect(REGISTERED_ONCE)
});

/// Rows written.
pub static CREATED: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "user_service_references_created_total",
        "Rows written to auth_user_references"
    )
    .expect(REGISTERED_ONCE)
});

/// Events of a user that had its row, conflicts included.
pub static DUPLICATES: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "user_service_duplicates_total",
        "Events whose user_id was already stored"
    )
    .expect(REGISTERED_ONCE)
});

/// Events that say something else of a user than its row.
pub static CONFLICTS: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "user_service_conflicts_total",
        "Events with other data for a user_id that was already stored; the row stays as it is"
    )
    .expect(REGISTERED_ONCE)
});

/// Dead letters; label `reason` is a `DeadReason::label`.
pub static DEAD_LETTERED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "user_service_dead_lettered_total",
        "Deliveries moved to the dead letters",
        &["reason"]
    )
    .expect(REGISTERED_ONCE)
});

static BATCH_AGE: LazyLock<Gauge> = LazyLock::new(|| {
    register_gauge!(
        "user_service_batch_age_seconds",
        "For how long the events in hand have been in hand; 0 while there are none"
    )
    .expect(REGISTERED_ONCE)
});

/// Since when the batch in hand has been in hand; the consumer has one at a time.
static IN_HAND_SINCE: Mutex<Option<Instant>> = Mutex::new(None);

/// A batch in hand, until it is dropped, whatever has ended it.
pub struct InHand(());

impl InHand {
    /// From now on.
    pub fn begin() -> Self {
        *IN_HAND_SINCE.lock() = Some(Instant::now());
        Self(())
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        *IN_HAND_SINCE.lock() = None;
    }
}

/// Brings the age of the batch in hand up to date.
pub fn on_scrape() {
    let since = *IN_HAND_SINCE.lock();
    BATCH_AGE.set(since.map_or(0.0, |since| since.elapsed().as_secs_f64()));
}

/// Makes the counters known from the start: an increase from nothing is not seen by a rate.
pub fn register() {
    for counter in [&RECEIVED, &REDELIVERED, &CREATED, &DUPLICATES, &CONFLICTS] {
        LazyLock::force(counter);
    }
    LazyLock::force(&BATCH_AGE);
    for reason in DeadReason::LABELS {
        DEAD_LETTERED.with_label_values(&[reason]);
    }
}
