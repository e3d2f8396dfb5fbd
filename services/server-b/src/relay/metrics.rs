//! Metrics of the relay.

use std::sync::LazyLock;

use anyhow::Context;
use prometheus::{
    IntCounter, IntCounterVec, IntGauge, register_int_counter, register_int_counter_vec,
    register_int_gauge,
};
use sqlx::PgPool;

static PUBLISHED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "identity_relay_events_total",
        "Configuration events published by the relay, by outcome",
        &["outcome"]
    )
    .expect("registered once")
});
static REPUBLISHED: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "identity_relay_republished_total",
        "Events published again because they were not known to be confirmed"
    )
    .expect("registered once")
});
static OUTBOX_ROWS: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!("identity_outbox_rows", "Rows in the outbox; 100000 at most")
        .expect("registered once")
});
static OUTBOX_AGE: LazyLock<prometheus::Gauge> = LazyLock::new(|| {
    prometheus::register_gauge!(
        "identity_outbox_oldest_seconds",
        "For how long the oldest change in the outbox has waited, also one that a later change of its user stands for"
    )
    .expect("registered once")
});
pub(crate) static LEADER: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!("identity_relay_leader", "1 if this process leads the relay")
        .expect("registered once")
});

/// Makes the series known from the start: an increase from nothing is not seen by a rate.
pub(crate) fn register() {
    LazyLock::force(&REPUBLISHED);
    for outcome in ["confirmed", "unconfirmed"] {
        PUBLISHED.with_label_values(&[outcome]);
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

pub(super) fn published(confirmed: usize, unconfirmed: usize) {
    PUBLISHED
        .with_label_values(&["confirmed"])
        .inc_by(count(confirmed));
    PUBLISHED
        .with_label_values(&["unconfirmed"])
        .inc_by(count(unconfirmed));
}

pub(super) fn republished(rows: usize) {
    REPUBLISHED.inc_by(count(rows));
}

/// Reads the outbox's size and age: of the oldest rows, by their index, and no more than what a look may cost.
pub(crate) async fn read_outbox(pool: &PgPool) -> anyhow::Result<()> {
    let (rows, age): (i64, f64) = sqlx::query_as(
        "SELECT count(*), coalesce(extract(epoch FROM clock_timestamp() - min(made)), 0)::float8
         FROM (SELECT coalesce(waiting_since, occurred_at) AS made FROM outbox ORDER BY id LIMIT 100000) AS oldest",
    )
    .fetch_one(pool)
    .await
    .context("cannot read the outbox's size")?;
    OUTBOX_ROWS.set(rows);
    OUTBOX_AGE.set(age);
    Ok(())
}
