//! What the sync task shows of itself.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use service_runtime::amqp::ConnectionState;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use wire_contract::SnapshotCause;

use crate::cache::{CacheState, UserCache};

/// A snapshot that has completed.
#[derive(Debug, Clone)]
pub struct LastSnapshot {
    /// Why it was asked for.
    pub cause: SnapshotCause,
    /// From request to end.
    pub duration: Duration,
    /// Users in the cache at its end.
    pub users: u64,
    /// When it ended.
    pub at: OffsetDateTime,
}

/// What the sync task shows.
#[derive(Debug, Clone)]
pub struct SyncStatus {
    /// The connection that brings the stream.
    pub connection: Arc<RwLock<ConnectionState>>,
    /// The last completed snapshot.
    pub last_snapshot: Arc<RwLock<Option<LastSnapshot>>>,
}

impl Default for SyncStatus {
    fn default() -> Self {
        Self {
            connection: ConnectionState::shared(),
            last_snapshot: Arc::default(),
        }
    }
}

/// What the subscription can be up to, in the words of `/status`.
pub(super) const STATES: [&str; 4] = [
    "disconnected",
    "awaiting_snapshot",
    "receiving_snapshot",
    "synced",
];

/// Which of [`STATES`] it is.
pub(super) fn state_name(connected: bool, state: &CacheState) -> &'static str {
    let [disconnected, awaiting, receiving, synced] = STATES;
    if !connected {
        disconnected
    } else if state.applied().is_some() {
        synced
    } else if state.under_way().any(|source| source.snapshot) {
        receiving
    } else {
        awaiting
    }
}

/// The body of `/status`.
#[must_use]
pub fn status(instance: &str, cache: &UserCache, sync: &SyncStatus) -> serde_json::Value {
    let connection = sync.connection.read().clone();
    let last_snapshot = sync.last_snapshot.read().as_ref().map(|last| {
        serde_json::json!({
            "cause": last.cause,
            "duration_seconds": last.duration.as_secs_f64(),
            "users": last.users,
            "at": rfc3339(last.at),
        })
    });
    let (serving, proven_now, proven_ago, age) = (
        cache.admission().is_ok(),
        cache.proven().is_some(),
        cache.proven_ago(),
        cache.age(),
    );
    cache.read(|state| {
        let position = state.seen().unwrap_or_default();
        let proven = state.proven();
        serde_json::json!({
            "instance": instance,
            "state": state_name(connection.connected, state),
            "since": rfc3339(connection.since),
            "serving": serving,
            "complete": state.is_complete(),
            "users": state.len(),
            "epoch": position.epoch,
            "sequence": position.sequence,
            "digest": state.digest(),
            "proven": proven_now,
            "proven_sequence": proven.map(|position| position.sequence),
            "proven_epoch": proven.map(|position| position.epoch),
            "proven_at": proven_ago.map(|ago| rfc3339(OffsetDateTime::now_utc() - ago)),
            "audited_at": state.audited_at().map(rfc3339),
            "staleness_seconds": age.as_secs_f64(),
            "last_snapshot": last_snapshot,
            "connects": connection.connects,
            "last_error": connection.last_error,
            "last_error_at": connection.last_error_at.map(rfc3339),
        })
    })
}

fn rfc3339(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).unwrap_or_default()
}
