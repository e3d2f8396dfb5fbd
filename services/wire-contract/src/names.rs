//! AMQP names. Those of the requirement are kept to the letter.

use uuid::Uuid;

/// Durable fanout exchange that carries every configuration event (requirement 1.1).
pub const CONFIG_EVENTS_EXCHANGE: &str = "config_events_exchange";
/// Durable queue on which a replica asks for a snapshot; requests expire.
pub const CONFIG_SNAPSHOT_REQUESTS: &str = "config_snapshot_requests";
/// Durable, bounded queue of the replicas' position reports.
pub const CONFIG_REPLICA_REPORTS: &str = "config_replica_reports";
/// Quorum queue of the SMS that were accepted (requirement 3.1).
pub const SMS_OUTBOUND_QUEUE: &str = "sms_outbound_queue";
/// What cannot be handled of [`SMS_OUTBOUND_QUEUE`], each with its reason.
pub const SMS_OUTBOUND_DEAD: &str = "sms_outbound_queue.dead";
/// Durable fanout exchange of the quota used per user and UTC day.
pub const SMS_USAGE_EXCHANGE: &str = "sms_usage_exchange";
/// Default name of the auth-service's topic exchange.
pub const AUTH_EVENTS_EXCHANGE: &str = "auth_events_exchange";
/// Default routing key of `UserCreated`.
pub const USER_CREATED_ROUTING_KEY: &str = "user.created";
/// Default name of user-service's queue.
pub const USER_CREATED_QUEUE: &str = "user_service.user_created";
/// Default name of the dead letters of [`USER_CREATED_QUEUE`].
pub const USER_CREATED_DEAD: &str = "user_service.user_created.dead";

/// Property `content_type` of every message.
pub const CONTENT_TYPE_JSON: &str = "application/json";
/// W3C Trace Context, as a string header.
pub const HEADER_TRACEPARENT: &str = "traceparent";
/// W3C Trace Context, as a string header.
pub const HEADER_TRACESTATE: &str = "tracestate";
/// Header of a dead letter: why it could not be handled.
pub const HEADER_DEAD_REASON: &str = "x-dead-reason";
/// Header of a dead letter: the queue that it came from.
pub const HEADER_DEAD_SOURCE: &str = "x-dead-source";

/// Header of a change on [`CONFIG_EVENTS_EXCHANGE`], a signed 64-bit number: microseconds since the Unix epoch, by the
/// database's clock, before which the change was not committed. Later than the event's `occurred_at` where a transaction
/// took long. Absent from what an older server B sends; then `occurred_at` is the next best.
pub const HEADER_COMMITTED_AT: &str = "x-committed-at";
/// Header of a change on [`CONFIG_EVENTS_EXCHANGE`], a signed 64-bit number: microseconds since the Unix epoch, by server
/// B's clock, at which it was handed to the publisher, last if that was more than once.
pub const HEADER_PUBLISHED_AT: &str = "x-published-at";
/// Header of a change on [`CONFIG_EVENTS_EXCHANGE`], a boolean, `true` or absent: the change takes a right away at once,
/// be it the user, its being active, or a key.
pub const HEADER_REVOKES: &str = "x-revokes";

/// Server B sends snapshots only to queues whose name starts so: a request must not be able to make
/// B flood someone else's queue.
pub const REPLICA_QUEUE_PREFIX: &str = "server-a.";

/// The name of a replica's own queue, fresh for each connection.
#[must_use]
pub fn replica_queue(instance: &str, connection: Uuid) -> String {
    format!("{REPLICA_QUEUE_PREFIX}{instance}.{}", connection.simple())
}

/// The name of a replica's own queue of [`SMS_USAGE_EXCHANGE`], fresh for each connection.
#[must_use]
pub fn usage_queue(instance: &str, connection: Uuid) -> String {
    format!(
        "{REPLICA_QUEUE_PREFIX}{instance}.usage.{}",
        connection.simple()
    )
}
