//! Takes messages from queues.

use std::time::Duration;

use anyhow::Context;
use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, Consumer};
use wire_contract::{ExchangeSpec, QueueSpec};

use super::batch::close;
use super::topology::{bind, declare_exchange, declare_queue, waiting};

/// A queue takes back what a channel held some time after the channel has been closed: milliseconds, on a busy broker more.
const GIVEN_BACK_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(20);

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

/// Closes `channel`, which has messages of `queue` unacknowledged, and then its connection; in between waits until `left`
/// messages wait in the queue, so that who comes next finds them.
///
/// # Errors
/// When the connection is lost. Not when the wait takes too long: others may have taken them.
pub async fn give_back(
    connection: &Connection,
    channel: &Channel,
    queue: &str,
    left: u32,
) -> anyhow::Result<()> {
    channel.close(200, "bye".into()).await?;
    let channel = connection.create_channel().await?;
    let given_back = async {
        while waiting(&channel, queue).await? < left {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        anyhow::Ok(())
    };
    let given_back = tokio::time::timeout(GIVEN_BACK_WITHIN, given_back).await;
    close(connection).await;
    given_back.unwrap_or(Ok(()))
}
