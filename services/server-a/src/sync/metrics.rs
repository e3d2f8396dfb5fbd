//! Metrics of the cache and its stream.

use std::sync::LazyLock;
use std::time::Duration;

use prometheus::{
    HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, register_histogram_vec,
    register_int_counter, register_int_counter_vec, register_int_gauge, register_int_gauge_vec,
};
use wire_contract::SnapshotCause;

use super::{SyncStatus, control, lag, status};
use crate::cache::{Effect, UserCache};

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
static EPOCH: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!("identity_cache_epoch", "Epoch of identity_cache_sequence")
        .expect("registered once")
});
static MEMORY: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!(
        "identity_cache_memory_bytes",
        "Memory that the cache takes, an estimate from the capacities of its tables"
    )
    .expect("registered once")
});
static STATE: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    register_int_gauge_vec!(
        "identity_cache_state",
        "1 for what the subscription is up to, 0 for the others",
        &["state"]
    )
    .expect("registered once")
});
static MISMATCHES: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "identity_digest_mismatches_total",
        "Bookmarks whose digest differed from the cache's"
    )
    .expect("registered once")
});
static PROVEN_SEQUENCE: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!(
        "identity_cache_proven_sequence",
        "Last number at which the cache's digest equalled the database's"
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

pub(super) fn applied(event_type: &str, effect: Effect) {
    EVENTS
        .with_label_values(&[event_type, effect_label(effect)])
        .inc();
    if effect == Effect::Mismatch {
        MISMATCHES.inc();
    }
}

pub(super) fn ignored(reason: &'static str) {
    IGNORED.with_label_values(&[reason]).inc();
}

/// What became of a snapshot that was asked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum SnapshotOutcome {
    /// All of it came, so long after the request.
    Completed(Duration),
    /// Its rows did not add up, or its sender fell silent.
    Failed,
}

pub(super) fn snapshot(cause: SnapshotCause, outcome: SnapshotOutcome) {
    let cause = cause_label(cause);
    let outcome = match outcome {
        SnapshotOutcome::Completed(duration) => {
            SNAPSHOT_SECONDS
                .with_label_values(&[cause])
                .observe(duration.as_secs_f64());
            "completed"
        }
        SnapshotOutcome::Failed => "failed",
    };
    SNAPSHOTS.with_label_values(&[cause, outcome]).inc();
}

pub(super) fn source_given_up(snapshot: bool) {
    let kind = if snapshot { "snapshot" } else { "full_sync" };
    GIVEN_UP.with_label_values(&[kind]).inc();
}

pub(super) fn control_lost(kind: &'static str) {
    CONTROL_LOST.with_label_values(&[kind]).inc();
}

/// What each event of the stream can do; of the others only what has happened is shown.
const STREAM_EFFECTS: [(&str, &[Effect]); 3] = [
    ("user.updated", &CHANGE_EFFECTS),
    ("user.deleted", &CHANGE_EFFECTS),
    (
        "bookmark",
        &[
            Effect::Proven,
            Effect::Mismatch,
            Effect::NotComparable,
            Effect::Gap,
            Effect::OldEpoch,
        ],
    ),
];
const CHANGE_EFFECTS: [Effect; 5] = [
    Effect::Applied,
    Effect::Stale,
    Effect::Duplicate,
    Effect::Gap,
    Effect::OldEpoch,
];
const CAUSES: [SnapshotCause; 5] = [
    SnapshotCause::Connected,
    SnapshotCause::Gap,
    SnapshotCause::Mismatch,
    SnapshotCause::Failed,
    SnapshotCause::Silence,
];

/// Makes the series known from the start: an increase from nothing is not seen by a rate.
pub fn register() {
    lag::register();
    LazyLock::force(&MISMATCHES);
    for (event, effects) in STREAM_EFFECTS {
        for effect in effects {
            EVENTS.with_label_values(&[event, effect_label(*effect)]);
        }
    }
    for reason in ["malformed", "unknown_event"] {
        IGNORED.with_label_values(&[reason]);
    }
    for cause in CAUSES.map(cause_label) {
        for outcome in ["completed", "failed"] {
            SNAPSHOTS.with_label_values(&[cause, outcome]);
        }
    }
    for kind in ["snapshot", "full_sync"] {
        GIVEN_UP.with_label_values(&[kind]);
    }
    for kind in control::KINDS {
        CONTROL_LOST.with_label_values(&[kind]);
    }
}

/// Sizes are read when they are scraped, so they cannot drift.
pub fn on_scrape(cache: &UserCache, sync: &SyncStatus) {
    let connected = sync.connection.read().connected;
    cache.read(|state| {
        USERS.set(i64::try_from(state.len()).unwrap_or(i64::MAX));
        MEMORY.set(i64::try_from(state.memory_bytes()).unwrap_or(i64::MAX));
        let seen = state.seen().unwrap_or_default();
        EPOCH.set(seen.epoch);
        SEQUENCE.set(seen.sequence);
        PROVEN_SEQUENCE.set(state.proven().map_or(0, |position| position.sequence));
        let now = status::state_name(connected, state);
        for name in status::STATES {
            STATE.with_label_values(&[name]).set(i64::from(name == now));
        }
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
        Effect::SourceAborted => "source_aborted",
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
