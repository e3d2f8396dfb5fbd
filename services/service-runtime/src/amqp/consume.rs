//! Takes messages from queues.

use anyhow::Context;
use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, Consumer};
use wire_contract::{ExchangeSpec, QueueSpec};

use super::topology::{bind, declare_exchange, declare_queue};

/// Consumes a queue, `prefetch` messages unacknowledged at most. Acked by hand, and not exclusive: others may consume beside
/// this one. `tag` is what the broker's tools show; empty, the broker makes one up.
pub async fn consume(
    channel: &Channel,
    queue: &str,
    tag: &str,
    prefetch: u16,
) -> anyhow::Result<Consumer> {
    channel
        .basic_qos(prefetch, BasicQosOptions::default())
        .await
        .context("cannot set the prefetch")?;
    channel
        .basic_consume(
            queue.into(),
            tag.into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await
        .with_context(|| format!("cannot consume {queue}"))
}

/// Makes a queue of one's own, binds it to a fanout exchange and consumes it.
pub async fn subscribe(
    connection: &Connection,
    exchange: &ExchangeSpec,
    queue: &QueueSpec,
    prefetch: u16,
) -> anyhow::Result<(Channel, Consumer)> {
    let channel = connection.create_channel().await?;
    declare_exchange(&channel, exchange).await?;
    declare_queue(&channel, queue).await?;
    bind(&channel, &queue.name, &exchange.name, "").await?;
    let consumer = consume(&channel, &queue.name, &queue.name, prefetch).await?;
    Ok((channel, consumer))
}
