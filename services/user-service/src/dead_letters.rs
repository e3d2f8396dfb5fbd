//! The dead letters of `UserCreated`: look at them, give them back to the queue, or throw them away.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use futures_util::StreamExt;
use futures_util::future::try_join_all;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicPublishOptions, ConfirmSelectOptions, QueuePurgeOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Consumer};
use serde::{Deserialize, Serialize};
use service_runtime::amqp::{consume, header_text};
use time::OffsetDateTime;
use wire_contract::{HEADER_DEAD_REASON, HEADER_DEAD_SOURCE, UserId};

/// Dead letters that are given back at once: a confirm for each alone would be slow.
const CHUNK: u16 = 200;
/// A dead letter that has not come by then was taken by someone else.
const MISSING_AFTER: Duration = Duration::from_secs(5);

/// What is told of a dead letter: neither name nor address, which are personal data.
#[derive(Debug, Serialize)]
pub struct DeadLetter {
    /// Why it is one; none when the broker made it one.
    pub reason: Option<String>,
    /// The queue that it came from.
    pub source: Option<String>,
    /// When it became one.
    #[serde(with = "time::serde::rfc3339::option")]
    pub dead_since: Option<OffsetDateTime>,
    /// Of its body.
    pub bytes: usize,
    /// Of its body, if it can be read.
    pub user_id: Option<UserId>,
    /// AMQP `message_id`.
    pub message_id: Option<String>,
}

impl DeadLetter {
    fn of(delivery: &Delivery) -> Self {
        #[derive(Deserialize)]
        struct Identified {
            user_id: UserId,
        }
        let identified = serde_json::from_slice::<Identified>(&delivery.data);
        let seconds = delivery
            .properties
            .timestamp()
            .and_then(|seconds| i64::try_from(seconds).ok());
        Self {
            reason: header_text(delivery, HEADER_DEAD_REASON),
            source: header_text(delivery, HEADER_DEAD_SOURCE),
            dead_since: seconds.and_then(|at| OffsetDateTime::from_unix_timestamp(at).ok()),
            bytes: delivery.data.len(),
            user_id: identified.ok().map(|it| it.user_id),
            message_id: delivery
                .properties
                .message_id()
                .as_ref()
                .map(ToString::to_string),
        }
    }
}

/// Up to `limit` of `all` dead letters, the oldest first. They return to the queue when the channel ends; until then others do
/// not see them.
pub async fn list(
    channel: &Channel,
    dead: &str,
    all: u32,
    limit: u16,
) -> anyhow::Result<Vec<DeadLetter>> {
    let mut letters = consume(channel, dead, "", limit).await?;
    let letters = take(&mut letters, all.min(limit.into())).await?;
    Ok(letters.iter().map(DeadLetter::of).collect())
}

/// Publishes `wanted` dead letters to `queue` again, each confirmed before it is taken out of the dead letters: in between it is
/// in both rather than in none.
///
/// # Errors
/// When a message was not confirmed; it and those taken with it then stay dead letters.
pub async fn requeue(
    channel: &Channel,
    dead: &str,
    queue: &str,
    wanted: u32,
) -> anyhow::Result<u32> {
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    let mut letters = consume(channel, dead, "", CHUNK).await?;
    let mut done = 0;
    while done < wanted {
        let chunk = take(&mut letters, (wanted - done).min(CHUNK.into())).await?;
        let Some(last) = chunk.last() else { break };
        try_join_all(chunk.iter().map(|it| give_back(channel, queue, it)))
            .await
            .with_context(|| format!("{done} messages were requeued before"))?;
        let options = BasicAckOptions { multiple: true };
        channel
            .basic_ack(last.delivery_tag, options)
            .await
            .context("cannot take the requeued messages out of the dead letters")?;
        done += u32::try_from(chunk.len()).context("a chunk is small")?;
    }
    Ok(done)
}

/// Throws all dead letters away; gives their number.
pub async fn purge(channel: &Channel, dead: &str) -> anyhow::Result<u32> {
    channel
        .queue_purge(dead.into(), QueuePurgeOptions::default())
        .await
        .with_context(|| format!("cannot purge {dead}"))
}

/// By a consumer, and not by `basic.get`, whose acks a quorum queue settles one by one: RabbitMQ holds back all but 32 of
/// them, and forgets those when the connection is closed.
async fn take(letters: &mut Consumer, wanted: u32) -> anyhow::Result<Vec<Delivery>> {
    let mut taken = Vec::new();
    for _ in 0..wanted {
        match tokio::time::timeout(MISSING_AFTER, letters.next()).await {
            Ok(Some(letter)) => taken.push(letter?),
            Ok(None) => bail!("the broker cancelled the reading of the dead letters"),
            Err(_) => break,
        }
    }
    Ok(taken)
}

async fn give_back(channel: &Channel, queue: &str, letter: &Delivery) -> anyhow::Result<()> {
    let headers = letter.properties.headers().as_ref();
    let headers: FieldTable = headers
        .map(|headers| {
            let kept = headers.inner().iter().filter(|(name, _)| {
                ![HEADER_DEAD_REASON, HEADER_DEAD_SOURCE].contains(&name.as_str())
            });
            kept.map(|(name, value)| (name.clone(), value.clone()))
                .collect::<std::collections::BTreeMap<_, _>>()
                .into()
        })
        .unwrap_or_default();
    let properties = letter.properties.clone().with_headers(headers);
    publish_confirmed(channel, "", queue, &letter.data, properties).await
}

/// Publishes, and waits for the broker's word that the message is in a queue. The channel must be in confirm mode.
///
/// # Errors
/// When it is not. Of several that are under way on the channel, the error may come to another than the one that no
/// queue took.
pub async fn publish_confirmed(
    channel: &Channel,
    exchange: &str,
    routing_key: &str,
    body: &[u8],
    properties: BasicProperties,
) -> anyhow::Result<()> {
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let confirmation = channel
        .basic_publish(
            exchange.into(),
            ShortString::from(routing_key),
            options,
            body,
            properties,
        )
        .await?
        .await?;
    ensure!(
        !matches!(confirmation, Confirmation::Ack(Some(_))),
        "no queue takes messages with routing key {routing_key}"
    );
    match confirmation {
        Confirmation::Ack(None) => Ok(()),
        _ => bail!("RabbitMQ refused a message"),
    }
}
