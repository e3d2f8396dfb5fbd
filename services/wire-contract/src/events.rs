//! What travels on `config_events_exchange` and into a replica's own queue.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::digest::UserSetDigest;
use crate::key::ApiKey;
use crate::user::{Position, UserId, UserRecord};

/// A user was created or changed (requirement 1.2), or a full sync tells of it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserUpdated {
    /// The user as it is now.
    #[serde(flatten)]
    pub user: UserRecord,
    /// Epoch of `sequence` and `version`.
    pub epoch: i64,
    /// Number in the stream; absent from a full sync's copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<i64>,
    /// The run of a full sync that this copy belongs to, as in [`SyncStarted`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_id: Option<Uuid>,
    /// Position that the full sync has read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<i64>,
    /// When the change was made.
    #[serde(with = "time::serde::rfc3339")]
    pub occurred_at: OffsetDateTime,
}

/// A user was deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserDeleted {
    /// Stable primary key, never to be used again.
    pub user_id: UserId,
    /// The key that it had.
    pub api_key: Option<ApiKey>,
    /// Higher than every version the user had.
    pub version: i64,
    /// Epoch of `sequence` and `version`.
    pub epoch: i64,
    /// Number in the stream.
    pub sequence: i64,
    /// When the change was made.
    #[serde(with = "time::serde::rfc3339")]
    pub occurred_at: OffsetDateTime,
}

/// A snapshot is about to be read: whatever the replica sees from now on is newer than that or part
/// of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotStarted {
    /// Names the snapshot.
    pub snapshot_id: Uuid,
    /// Where the replica sends [`crate::SnapshotCredit`].
    pub credit_queue: String,
    /// Chunks that B sends beyond what the replica has acknowledged.
    pub window: u32,
    /// About how many users will come, for the replica to make room; a hint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub users: Option<u64>,
}

/// A part of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotChunk {
    /// Names the snapshot.
    pub snapshot_id: Uuid,
    /// Counts from 0.
    pub index: u32,
    /// Position that the read saw; its epoch is that of the versions, too.
    pub as_of: Position,
    /// Users; keys always as digests.
    pub users: Vec<UserRecord>,
}

/// All of a snapshot has been sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotCompleted {
    /// Names the snapshot.
    pub snapshot_id: Uuid,
    /// Position that the read saw: later events are not in the rows.
    #[serde(flatten)]
    pub position: Position,
    /// Number by which every change visible to the read has been numbered. Before it the rows may
    /// be ahead of the stream, so digests cannot be compared.
    pub comparable_from: i64,
    /// Users sent.
    pub count: u64,
    /// Digest of the users sent.
    pub digest: UserSetDigest,
    /// See [`crate::DIGEST_VERSION`].
    pub digest_version: u16,
}

/// A full sync is about to read the users.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncStarted {
    /// Names the run of the full sync: the first has the id of the sync; one that another server B took over has another id.
    pub sync_id: Uuid,
}

/// A full sync has told of every user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncCompleted {
    /// As in [`SyncStarted`].
    pub sync_id: Uuid,
    /// Position that the read saw.
    #[serde(flatten)]
    pub position: Position,
    /// As in [`SnapshotCompleted`].
    pub comparable_from: i64,
    /// Users published.
    pub count: u64,
    /// Digest of the users published.
    pub digest: UserSetDigest,
    /// See [`crate::DIGEST_VERSION`].
    pub digest_version: u16,
}

/// Server B has given a snapshot up that it had started; whoever needs one asks again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotAborted {
    /// Names the snapshot.
    pub snapshot_id: Uuid,
}

/// Server B has given a full sync up that it had started: its end will not come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncAborted {
    /// As in [`SyncStarted`].
    pub sync_id: Uuid,
}

/// What the users amount to at a position; sent each second by the relay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bookmark {
    /// Last event published before this bookmark.
    #[serde(flatten)]
    pub position: Position,
    /// Users at that position.
    pub count: u64,
    /// Their digest.
    pub digest: UserSetDigest,
    /// See [`crate::DIGEST_VERSION`].
    pub digest_version: u16,
    /// When the digest was last compared with the tables themselves.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub audited_at: Option<OffsetDateTime>,
}

/// Server B is there; tells whether bookmarks are being sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeAnswer {
    /// Milliseconds since the last bookmark was confirmed by the broker; `None` if there never was one.
    pub bookmark_age_ms: Option<u64>,
}

/// Any configuration event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigEvent {
    /// `user.updated`
    UserUpdated(UserUpdated),
    /// `user.deleted`
    UserDeleted(UserDeleted),
    /// `snapshot.started`
    SnapshotStarted(SnapshotStarted),
    /// `snapshot.chunk`
    SnapshotChunk(SnapshotChunk),
    /// `snapshot.completed`
    SnapshotCompleted(SnapshotCompleted),
    /// `snapshot.aborted`
    SnapshotAborted(SnapshotAborted),
    /// `sync.started`
    SyncStarted(SyncStarted),
    /// `sync.completed`
    SyncCompleted(SyncCompleted),
    /// `sync.aborted`
    SyncAborted(SyncAborted),
    /// `bookmark`
    Bookmark(Bookmark),
    /// `probe.answer`
    ProbeAnswer(ProbeAnswer),
}

/// A body that does not fit its event. The text says where, never what was there.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("malformed {event}: {reason} (line {line}, column {column})")]
pub struct DecodeError {
    /// The event or message.
    pub event: String,
    /// `syntax`, `data` or `end of input`.
    pub reason: &'static str,
    /// Line in the body.
    pub line: usize,
    /// Column in the body.
    pub column: usize,
}

impl ConfigEvent {
    /// Property `type` of the message.
    #[must_use]
    pub fn event_type(&self) -> &'static str {
        match self {
            Self::UserUpdated(_) => "user.updated",
            Self::UserDeleted(_) => "user.deleted",
            Self::SnapshotStarted(_) => "snapshot.started",
            Self::SnapshotChunk(_) => "snapshot.chunk",
            Self::SnapshotCompleted(_) => "snapshot.completed",
            Self::SnapshotAborted(_) => "snapshot.aborted",
            Self::SyncStarted(_) => "sync.started",
            Self::SyncCompleted(_) => "sync.completed",
            Self::SyncAborted(_) => "sync.aborted",
            Self::Bookmark(_) => "bookmark",
            Self::ProbeAnswer(_) => "probe.answer",
        }
    }

    /// The message's body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::UserUpdated(event) => encode_json(event),
            Self::UserDeleted(event) => encode_json(event),
            Self::SnapshotStarted(event) => encode_json(event),
            Self::SnapshotChunk(event) => encode_json(event),
            Self::SnapshotCompleted(event) => encode_json(event),
            Self::SnapshotAborted(event) => encode_json(event),
            Self::SyncStarted(event) => encode_json(event),
            Self::SyncCompleted(event) => encode_json(event),
            Self::SyncAborted(event) => encode_json(event),
            Self::Bookmark(event) => encode_json(event),
            Self::ProbeAnswer(event) => encode_json(event),
        }
    }

    /// Reads a body by the property `type`; `None` is an event of a later version.
    pub fn decode(event_type: &str, body: &[u8]) -> Result<Option<Self>, DecodeError> {
        Ok(Some(match event_type {
            "user.updated" => Self::UserUpdated(decode_json(event_type, body)?),
            "user.deleted" => Self::UserDeleted(decode_json(event_type, body)?),
            "snapshot.started" => Self::SnapshotStarted(decode_json(event_type, body)?),
            "snapshot.chunk" => Self::SnapshotChunk(decode_json(event_type, body)?),
            "snapshot.completed" => Self::SnapshotCompleted(decode_json(event_type, body)?),
            "snapshot.aborted" => Self::SnapshotAborted(decode_json(event_type, body)?),
            "sync.started" => Self::SyncStarted(decode_json(event_type, body)?),
            "sync.completed" => Self::SyncCompleted(decode_json(event_type, body)?),
            "sync.aborted" => Self::SyncAborted(decode_json(event_type, body)?),
            "bookmark" => Self::Bookmark(decode_json(event_type, body)?),
            "probe.answer" => Self::ProbeAnswer(decode_json(event_type, body)?),
            _ => return Ok(None),
        }))
    }
}

/// Encodes a message of this crate.
///
/// # Panics
/// Never for the types of this crate: all have string keys and none has a fallible serializer.
#[must_use]
pub fn encode_json<T: Serialize>(message: &T) -> Vec<u8> {
    serde_json::to_vec(message).expect("the contract's types serialize to JSON")
}

/// Decodes a message. serde's own text is not passed on: it may quote the body, and so a key.
pub fn decode_json<T: DeserializeOwned>(event: &str, body: &[u8]) -> Result<T, DecodeError> {
    serde_json::from_slice(body).map_err(|error| DecodeError {
        event: event.to_owned(),
        reason: match error.classify() {
            serde_json::error::Category::Syntax => "not JSON",
            serde_json::error::Category::Eof => "ends too early",
            serde_json::error::Category::Data => "a field is missing or of the wrong type",
            serde_json::error::Category::Io => "unreadable",
        },
        line: error.line(),
        column: error.column(),
    })
}
