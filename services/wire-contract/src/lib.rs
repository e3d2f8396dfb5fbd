//! Every message, header and AMQP name that crosses a process boundary, and the digest that proves
//! two copies of the users equal. No I/O.
//!
//! Messages are JSON with `content_type: application/json`; the AMQP property `type` names the
//! event, so a body is decoded straight into its struct. Fields may be added, never renamed:
//! unknown fields are ignored, and an unknown event decodes to `None` so that readers can count it.
//! `fixtures/` pins one example of each message; a test compares them byte by byte.

mod auth;
mod digest;
mod events;
mod key;
mod names;
mod replica;
mod sms;
mod topology;
mod user;

pub use auth::UserCreated;
pub use digest::{DIGEST_VERSION, UserSetDigest, key_hash, user_hash};
pub use events::{
    Bookmark, ConfigEvent, DecodeError, ProbeAnswer, SnapshotAborted, SnapshotChunk,
    SnapshotCompleted, SnapshotStarted, SyncAborted, SyncCompleted, SyncStarted, UserDeleted,
    UserUpdated, decode_json, encode_json,
};
pub use key::{ApiKey, InvalidKeyDigest, KeyDigest, ShortDigest};
pub use names::{
    AUTH_EVENTS_EXCHANGE, CONFIG_EVENTS_EXCHANGE, CONFIG_REPLICA_REPORTS, CONFIG_SNAPSHOT_REQUESTS,
    CONTENT_TYPE_JSON, HEADER_COMMITTED_AT, HEADER_DEAD_REASON, HEADER_DEAD_SOURCE,
    HEADER_PUBLISHED_AT, HEADER_REVOKES, HEADER_TRACEPARENT, HEADER_TRACESTATE,
    REPLICA_QUEUE_PREFIX, SMS_OUTBOUND_DEAD, SMS_OUTBOUND_QUEUE, SMS_USAGE_EXCHANGE,
    USER_CREATED_DEAD, USER_CREATED_QUEUE, USER_CREATED_ROUTING_KEY, replica_queue, usage_queue,
};
pub use replica::{
    ReplicaPing, ReplicaProbe, ReplicaReport, SnapshotCause, SnapshotCredit, SnapshotRequest,
    SyncProgress,
};
pub use sms::{
    Admission, Encoding, SmsEnvelope, SmsPage, SmsRecord, SmsStatus, SmsTransition, SmsUsage,
    UnknownSmsStatus, UsageEntry, idempotent_message_id,
};
pub use topology::{Argument, ExchangeKind, ExchangeSpec, QueueSpec, specs};
pub use user::{Position, PreviousKey, UserId, UserRecord};
