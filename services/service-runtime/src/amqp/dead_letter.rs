//! Moves a message that cannot be handled to its dead-letter queue.

use anyhow::Context;
use lapin::message::Delivery;
use lapin::options::BasicAckOptions;
use lapin::types::AMQPValue;
use wire_contract::{HEADER_DEAD_REASON, HEADER_DEAD_SOURCE};

use super::headers::{delivery_trace, event_type};
use super::publisher::{Message, Publisher};

/// Republishes `delivery` with its reason, waits for the confirm, and only then acks it: in between it
/// is in both places rather than in none.
///
/// # Errors
/// When the dead letter was not confirmed; the delivery is then not acked.
pub async fn dead_letter(
    publisher: &Publisher,
    delivery: &Delivery,
    source: &str,
    dead_queue: &str,
    reason: &str,
) -> anyhow::Result<()> {
    let mut message = Message::to_queue(dead_queue, event_type(delivery), delivery.data.clone());
    message.headers = vec![
        (HEADER_DEAD_REASON, AMQPValue::LongString(reason.into())),
        (HEADER_DEAD_SOURCE, AMQPValue::LongString(source.into())),
    ];
    message.trace = delivery_trace(delivery);
    if let Some(id) = delivery.properties.message_id()
        && let Ok(id) = id.as_str().parse()
    {
        message.message_id = id;
    }
    publisher
        .publish(message)
        .await
        .with_context(|| format!("cannot dead-letter to {dead_queue}"))?;
    tracing::warn!(queue = source, reason, "message dead-lettered");
    delivery
        .ack(BasicAckOptions::default())
        .await
        .context("cannot ack a dead-lettered message")?;
    Ok(())
}
