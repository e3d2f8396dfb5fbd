//! What replicas tell server B.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::user::Position;

/// Why a replica asks for a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotCause {
    /// A fresh connection: its queue is new, so anything may have been missed.
    Connected,
    /// A number of the stream is missing.
    Gap,
    /// The digest differs from the bookmark's.
    Mismatch,
    /// The last snapshot did not add up, or did not come to its end.
    Failed,
    /// The stream fell silent although B answers.
    Silence,
}

/// Asks for all users into `queue`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRequest {
    /// Names this request.
    pub request_id: Uuid,
    /// The replica's own queue, bound before the request was sent.
    pub queue: String,
    /// The replica's name.
    pub instance: String,
    /// Why.
    pub cause: SnapshotCause,
}

/// Asks, on the queue of the snapshot requests, whether server B is there: bookmarks have stayed away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaProbe {
    /// The replica's own queue, which gets the answer.
    pub queue: String,
    /// The replica's name.
    pub instance: String,
}

/// What a replica sends into its own queue by way of its other connection. When it comes out, all that was in the queue before
/// has come out, and both connections stood when it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaPing {
    /// Microseconds of the replica's own monotonic clock, from the begin of its subscription until it was sent.
    pub sent_us: u64,
}

impl ReplicaPing {
    /// Property `type` of the message.
    pub const TYPE: &str = "replica.ping";
}

/// Lets server B send further chunks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotCredit {
    /// The snapshot.
    pub snapshot_id: Uuid,
    /// The replica's own queue.
    pub queue: String,
    /// Chunks applied so far.
    pub chunks: u32,
}

/// Where a replica stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaReport {
    /// The replica's name.
    pub instance: String,
    /// Its queue, fresh for each connection.
    pub queue: String,
    /// Counts the reports of one process: what orders them, since clocks may step back.
    pub number: u64,
    /// Whether it serves.
    pub ready: bool,
    /// Everything up to here is applied.
    pub applied: Position,
    /// The last position it has seen; ahead of `applied` while a snapshot is needed.
    #[serde(default)]
    pub seen: Position,
    /// The last position at which its digest equalled the database's.
    pub proven: Option<Position>,
    /// Users in its cache.
    pub users: u64,
    /// Full sync under way, and the rows of it that were taken in: what paces the sync.
    #[serde(default)]
    pub syncing: Option<SyncProgress>,
    /// Last run of a full sync that it applied to the end.
    pub last_sync_id: Option<Uuid>,
    /// How long it serves after it sent the last [`ReplicaPing`] that came back, in milliseconds: its lease.
    pub fail_closed_after_ms: u64,
    /// When it wrote this.
    #[serde(with = "time::serde::rfc3339")]
    pub reported_at: OffsetDateTime,
}

/// How far a replica is in a full sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncProgress {
    /// The run of the full sync.
    pub sync_id: Uuid,
    /// Rows taken in.
    pub rows: u64,
}
