//! Exchanges and queues with their final arguments.
//!
//! RabbitMQ refuses to redeclare a queue with other arguments, so these never change; limits that an
//! operator may want to tighten are set by policy (the lower of policy and argument applies).

use crate::names::{
    AUTH_EVENTS_EXCHANGE, CONFIG_EVENTS_EXCHANGE, CONFIG_REPLICA_REPORTS, CONFIG_SNAPSHOT_REQUESTS,
    SMS_OUTBOUND_DEAD, SMS_OUTBOUND_QUEUE, SMS_USAGE_EXCHANGE,
};

/// A queue argument's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Argument {
    /// AMQP long string.
    Text(String),
    /// AMQP 64-bit integer.
    Number(i64),
}

/// How an exchange routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExchangeKind {
    /// To every bound queue.
    Fanout,
    /// By routing-key pattern.
    Topic,
}

/// A durable exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExchangeSpec {
    /// Exchange name.
    pub name: String,
    /// How it routes.
    pub kind: ExchangeKind,
}

/// A queue and everything it is declared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueSpec {
    /// Queue name.
    pub name: String,
    /// Survives a broker restart.
    pub durable: bool,
    /// Belongs to, and dies with, the declaring connection.
    pub exclusive: bool,
    /// Queue arguments.
    pub arguments: Vec<(&'static str, Argument)>,
}

/// RabbitMQ's default since 4.0 drops a message after 20 deliveries. A consumer that was restarted
/// often must never cost a good message, so the limit is out of reach; poison is dead-lettered by
/// the consumers themselves.
const DELIVERY_LIMIT: i64 = 1_000_000_000;

/// A replica that cannot keep up loses its oldest events, sees the gap and takes a snapshot, rather
/// than filling the broker's memory.
const REPLICA_QUEUE_BYTES: i64 = 256 * 1024 * 1024;

/// Some minutes of usage at the highest rate; what is lost is told again with the next SMS of the user.
const USAGE_QUEUE_BYTES: i64 = 16 * 1024 * 1024;

fn text(value: &str) -> Argument {
    Argument::Text(value.to_owned())
}

/// The topology, one function a place.
pub mod specs {
    use super::{
        AUTH_EVENTS_EXCHANGE, Argument, CONFIG_EVENTS_EXCHANGE, CONFIG_REPLICA_REPORTS,
        CONFIG_SNAPSHOT_REQUESTS, DELIVERY_LIMIT, ExchangeKind, ExchangeSpec, QueueSpec,
        REPLICA_QUEUE_BYTES, SMS_OUTBOUND_DEAD, SMS_OUTBOUND_QUEUE, SMS_USAGE_EXCHANGE,
        USAGE_QUEUE_BYTES, text,
    };

    /// `config_events_exchange`.
    #[must_use]
    pub fn config_events() -> ExchangeSpec {
        fanout(CONFIG_EVENTS_EXCHANGE)
    }

    /// `sms_usage_exchange`.
    #[must_use]
    pub fn sms_usage() -> ExchangeSpec {
        fanout(SMS_USAGE_EXCHANGE)
    }

    /// `auth_events_exchange`, or what the auth-service calls it.
    #[must_use]
    pub fn auth_events(name: Option<&str>) -> ExchangeSpec {
        ExchangeSpec {
            name: name.unwrap_or(AUTH_EVENTS_EXCHANGE).to_owned(),
            kind: ExchangeKind::Topic,
        }
    }

    /// `config_snapshot_requests`. Requests carry their own expiry.
    #[must_use]
    pub fn snapshot_requests() -> QueueSpec {
        quorum(CONFIG_SNAPSHOT_REQUESTS, vec![])
    }

    /// `config_replica_reports`. Only the newest reports matter: the oldest fall out.
    #[must_use]
    pub fn replica_reports() -> QueueSpec {
        quorum(
            CONFIG_REPLICA_REPORTS,
            vec![("x-max-length", Argument::Number(10_000))],
        )
    }

    /// `sms_outbound_queue`, whose dead letters go to `sms_outbound_queue.dead`.
    #[must_use]
    pub fn sms_outbound() -> QueueSpec {
        with_dead_letters(SMS_OUTBOUND_QUEUE, SMS_OUTBOUND_DEAD)
    }

    /// `sms_outbound_queue.dead`.
    #[must_use]
    pub fn sms_outbound_dead() -> QueueSpec {
        quorum(SMS_OUTBOUND_DEAD, vec![])
    }

    /// A replica's own queue (see [`crate::replica_queue`]).
    #[must_use]
    pub fn replica(name: String) -> QueueSpec {
        exclusive(name, REPLICA_QUEUE_BYTES)
    }

    /// A replica's own queue of usage (see [`crate::usage_queue`]).
    #[must_use]
    pub fn usage(name: String) -> QueueSpec {
        exclusive(name, USAGE_QUEUE_BYTES)
    }

    /// The queue on which one process of B receives credit for the snapshots it sends.
    #[must_use]
    pub fn credit(name: String) -> QueueSpec {
        exclusive(name, REPLICA_QUEUE_BYTES)
    }

    /// A durable quorum queue that keeps what it is given until it is acknowledged.
    #[must_use]
    pub fn quorum(name: &str, mut arguments: Vec<(&'static str, Argument)>) -> QueueSpec {
        arguments.extend([
            ("x-queue-type", text("quorum")),
            ("x-delivery-limit", Argument::Number(DELIVERY_LIMIT)),
        ]);
        QueueSpec {
            name: name.to_owned(),
            durable: true,
            exclusive: false,
            arguments,
        }
    }

    /// A durable quorum queue, with a second net below its consumer: what the broker itself would
    /// drop goes to `dead` with at-least-once guarantees (which need `reject-publish`).
    #[must_use]
    pub fn with_dead_letters(name: &str, dead: &str) -> QueueSpec {
        quorum(
            name,
            vec![
                ("x-dead-letter-exchange", text("")),
                ("x-dead-letter-routing-key", text(dead)),
                ("x-dead-letter-strategy", text("at-least-once")),
                ("x-overflow", text("reject-publish")),
            ],
        )
    }

    fn exclusive(name: String, max_bytes: i64) -> QueueSpec {
        QueueSpec {
            name,
            durable: false,
            exclusive: true,
            arguments: vec![
                ("x-max-length-bytes", Argument::Number(max_bytes)),
                ("x-overflow", text("drop-head")),
            ],
        }
    }

    fn fanout(name: &str) -> ExchangeSpec {
        ExchangeSpec {
            name: name.to_owned(),
            kind: ExchangeKind::Fanout,
        }
    }
}
