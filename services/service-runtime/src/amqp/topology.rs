//! Declares what wire-contract specifies.

use anyhow::Context;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};
use wire_contract::{Argument, ExchangeKind as Kind, ExchangeSpec, QueueSpec};

/// Declares a durable exchange.
pub async fn declare_exchange(channel: &Channel, spec: &ExchangeSpec) -> anyhow::Result<()> {
    let kind = match spec.kind {
        Kind::Fanout => ExchangeKind::Fanout,
        Kind::Topic => ExchangeKind::Topic,
    };
    let options = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    channel
        .exchange_declare(
            spec.name.as_str().into(),
            kind,
            options,
            FieldTable::default(),
        )
        .await
        .with_context(|| format!("cannot declare exchange {}", spec.name))
}

/// Declares a queue with its arguments; returns how many messages wait in it.
pub async fn declare_queue(channel: &Channel, spec: &QueueSpec) -> anyhow::Result<u32> {
    let options = QueueDeclareOptions {
        durable: spec.durable,
        exclusive: spec.exclusive,
        // An exclusive queue dies with its connection; auto_delete would also drop it between two
        // consumers on the same connection.
        auto_delete: false,
        ..QueueDeclareOptions::default()
    };
    let mut arguments = FieldTable::default();
    for (name, value) in &spec.arguments {
        let value = match value {
            Argument::Text(text) => AMQPValue::LongString(text.as_str().into()),
            Argument::Number(number) => AMQPValue::LongLongInt(*number),
        };
        arguments.insert((*name).into(), value);
    }
    let queue = channel
        .queue_declare(spec.name.as_str().into(), options, arguments)
        .await
        .with_context(|| format!("cannot declare queue {}", spec.name))?;
    Ok(queue.message_count())
}

/// How many messages wait in a queue.
///
/// # Errors
/// If there is no such queue, too.
pub async fn waiting(channel: &Channel, queue: &str) -> anyhow::Result<u32> {
    let options = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let declared = channel
        .queue_declare(queue.into(), options, FieldTable::default())
        .await
        .with_context(|| format!("cannot count the messages of {queue}"))?;
    Ok(declared.message_count())
}

/// Binds a queue to an exchange.
pub async fn bind(
    channel: &Channel,
    queue: &str,
    exchange: &str,
    routing_key: &str,
) -> anyhow::Result<()> {
    channel
        .queue_bind(
            queue.into(),
            exchange.into(),
            routing_key.into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
        .with_context(|| format!("cannot bind {queue} to {exchange}"))
}
