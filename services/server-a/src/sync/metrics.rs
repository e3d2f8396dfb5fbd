//! Metrics of the cache and its stream.

use std::sync::LazyLock;
use std::time::Duration;

use prometheus::{
    Histogram, HistogramVec, IntCounterVec, IntGauge, register_histogram, register_histogram_vec,
    register_int_counter_vec, register_int_gauge,
};
use time::OffsetDateTime;
use wire_contract::{ConfigEvent, SnapshotCause};

use crate::cache::{Effect, UserCache};

const LAG_BUCKETS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 300.0,
];

static LAG: LazyLock<Histogram> = LazyLock::new(|| {
    register_histogram!(
        "identity_event_lag_seconds",
        "Time from a change to its arrival at this replica",
        LAG_BUCKETS.to_vec()
    )
    .expect("registered once")
});
static EVENTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "identity_events_total",
        "Configuration events taken in, by event and what they did",
        &["event", "effect"]
    )
    .expect("registered once")
});
static IGNORED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "identity_events_ignored_total",
        "Messages that could not be taken in, by reason",
        &["reason"]
    )
    .expect("registered once")
});
static SNAPSHOTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "identity_snapshots_total",
        "Snapshots by cause and outcome",
        &["cause", "outcome"]
    )
    .expect("registered once")
});
static SNAPSHOT_SECONDS: LazyLock<HistogramVec> = LazyLock::new(|| {
    register_histogram_vec!(
        "identity_snapshot_duration_seconds",
        "Time from the request of a snapshot to its end",
        &["cause"],
        vec![0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]
    )
    .expect("registered once")
});
static GIVEN_UP: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "identity_sources_given_up_total",
        "Snapshots and full syncs given up because their sender fell silent, by kind",
        &["kind"]
    )
    .expect("registered once")
});
static CONTROL_LOST: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "identity_control_messages_lost_total",
        "Messages to server B that were not confirmed, by kind",
        &["kind"]
    )
    .expect("registered once")
});
static USERS: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!("identity_cache_users", "Users in the cache").expect("registered once")
});
static SEQUENCE: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!(
        "identity_cache_sequence",
        "Last number of the stream that the cache has seen"
    )
    .expect("registered once")
});
static PROVEN: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!(
        "identity_cache_proven",
        "1 while the cache's digest has equalled the database's within the last three bookmarks"
    )
    .expect("registered once")
});
static STALENESS: LazyLock<prometheus::Gauge> = LazyLock::new(|| {
    prometheus::register_gauge!(
        "identity_cache_staleness_seconds",
        "Time since the replica last heard from the stream"
    )
    .expect("registered once")
});
static SERVING: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!(
        "identity_cache_serving",
        "1 while the cache may be used to authenticate"
    )
    .expect("registered once")
});

/// Lag of a change of the stream; copies of a full sync are not changes.
pub(super) fn lag(event: &ConfigEvent) {
    let occurred_at = match event {
        ConfigEvent::UserUpdated(event) if event.sequence.is_some() => event.occurred_at,
        ConfigEvent::UserDeleted(event) => event.occurred_at,
        _ => return,
    };
    LAG.observe(
        (OffsetDateTime::now_utc() - occurred_at)
            .as_seconds_f64()
            .max(0.0),
    );
}

pub(super) fn applied(event_type: &str, effect: Effect) {
    EVENTS
        .with_label_values(&[event_type, effect_label(effect)])
        .inc();
}

pub(super) fn ignored(reason: &'static str) {
    IGNORED.with_label_values(&[reason]).inc();
}

pub(super) fn snapshot(cause: SnapshotCause, outcome: &'static str, duration: Option<Duration>) {
    let cause = cause_label(cause);
    SNAPSHOTS.with_label_values(&[cause, outcome]).inc();
    if let Some(duration) = duration {
        SNAPSHOT_SECONDS
            .with_label_values(&[cause])
            .observe(duration.as_secs_f64());
    }
}

pub(super) fn source_given_up(snapshot: bool) {
    let kind = if snapshot { "snapshot" } else { "full_sync" };
    GIVEN_UP.with_label_values(&[kind]).inc();
}

pub(super) fn control_lost(kind: &'static str) {
    CONTROL_LOST.with_label_values(&[kind]).inc();
}

/// Sizes are read when they are scraped, so they cannot drift.
pub fn on_scrape(cache: &UserCache) {
    cache.read(|state| {
        USERS.set(i64::try_from(state.len()).unwrap_or(i64::MAX));
        SEQUENCE.set(state.seen().map_or(0, |position| position.sequence));
    });
    PROVEN.set(i64::from(cache.proven().is_some()));
    STALENESS.set(cache.age().as_secs_f64());
    SERVING.set(i64::from(cache.admission().is_ok()));
}

fn effect_label(effect: Effect) -> &'static str {
    match effect {
        Effect::Applied => "applied",
        Effect::Stale => "stale",
        Effect::Duplicate => "duplicate",
        Effect::UnknownSource => "unknown_source",
        Effect::OldEpoch => "old_epoch",
        Effect::SourceCompleted => "source_completed",
        Effect::SourceBroken => "source_broken",
        Effect::Proven => "proven",
        Effect::Mismatch => "mismatch",
        Effect::NotComparable => "not_comparable",
        Effect::Gap => "gap",
    }
}

fn cause_label(cause: SnapshotCause) -> &'static str {
    match cause {
        SnapshotCause::Connected => "connected",
        SnapshotCause::Gap => "gap",
        SnapshotCause::Mismatch => "mismatch",
        SnapshotCause::Failed => "failed",
        SnapshotCause::Silence => "silence",
    }
}
