//! Metrics of what server B broadcasts about quota.

use std::sync::LazyLock;

use prometheus::{
    Gauge, IntCounterVec, IntGauge, register_gauge, register_int_counter_vec, register_int_gauge,
};
use tokio::time::Instant;

use super::Usage;

static BROADCASTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "identity_usage_broadcasts_total",
        "Broadcasts of used quota taken in, by what became of them",
        &["outcome"]
    )
    .expect("registered once")
});
static AGE: LazyLock<Gauge> = LazyLock::new(|| {
    register_gauge!(
        "identity_usage_age_seconds",
        "Time since the last broadcast of used quota, or since the start before the first"
    )
    .expect("registered once")
});
static USERS: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!(
        "identity_usage_users",
        "Users whose usage of today the replica knows something of"
    )
    .expect("registered once")
});
static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What can become of a broadcast.
const OUTCOMES: [&str; 4] = ["applied", "other_day", "malformed", "unknown_event"];

/// Makes the series known from the start.
pub fn register() {
    LazyLock::force(&STARTED);
    LazyLock::force(&AGE);
    LazyLock::force(&USERS);
    for outcome in OUTCOMES {
        BROADCASTS.with_label_values(&[outcome]);
    }
}

pub(super) fn broadcast(outcome: &str) {
    BROADCASTS.with_label_values(&[outcome]).inc();
}

/// Brings the gauges up to date.
pub fn on_scrape(usage: &Usage) {
    let (age, users) = usage.age_and_users();
    AGE.set(age.unwrap_or_else(|| STARTED.elapsed()).as_secs_f64());
    USERS.set(i64::try_from(users).unwrap_or(i64::MAX));
}
