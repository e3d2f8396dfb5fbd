//! Deliveries in batches: taken together, acknowledged with few acks.

use std::time::Duration;

use anyhow::Context;
use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::BasicAckOptions;
use lapin::{Channel, Connection, Consumer};

/// Waits for a delivery, then takes what else comes within `linger`, `most` in all.
pub async fn next_batch(
    consumer: &mut Consumer,
    most: usize,
    linger: Duration,
) -> anyhow::Result<Vec<Delivery>> {
    let cancelled = || anyhow::anyhow!("the broker cancelled the consumer");
    let mut batch = vec![consumer.next().await.ok_or_else(cancelled)??];
    let mut linger = std::pin::pin!(tokio::time::sleep(linger));
    while batch.len() < most {
        tokio::select! {
            biased;
            next = consumer.next() => batch.push(next.ok_or_else(cancelled)??),
            () = &mut linger => break,
        }
    }
    Ok(batch)
}

/// Acknowledges the tags of `settled`, and none of `open`; `settled` ascends.
pub async fn ack_settled(channel: &Channel, settled: &[u64], open: &[u64]) -> anyhow::Result<()> {
    for ack in acks(settled, open) {
        let options = BasicAckOptions {
            multiple: ack.multiple,
        };
        channel
            .basic_ack(ack.tag, options)
            .await
            .context("cannot acknowledge what is stored")?;
    }
    Ok(())
}

/// Says goodbye; an error is only worth a debug line, since the connection is over either way.
pub async fn close(connection: &Connection) {
    let goodbye = connection.close(200, "bye".into());
    let closed = tokio::time::timeout(Duration::from_secs(1), goodbye).await;
    if !matches!(closed, Ok(Ok(()))) {
        tracing::debug!("the connection was not closed in order");
    }
}

/// An ack to send.
#[derive(Debug, PartialEq, Eq)]
struct Ack {
    tag: u64,
    /// Up to and including `tag`.
    multiple: bool,
}

/// The fewest acks that cover `settled` and none of `open`. One ack covers everything before the first that is open; the
/// rest is acked one by one.
fn acks(settled: &[u64], open: &[u64]) -> Vec<Ack> {
    let first_open = open.iter().copied().min().unwrap_or(u64::MAX);
    let (prefix, rest) = settled.split_at(settled.partition_point(|tag| *tag < first_open));
    let prefix = prefix.last().map(|tag| Ack {
        tag: *tag,
        multiple: true,
    });
    let rest = rest.iter().map(|tag| Ack {
        tag: *tag,
        multiple: false,
    });
    prefix.into_iter().chain(rest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(tag: u64, multiple: bool) -> Ack {
        Ack { tag, multiple }
    }

    #[test]
    fn one_ack_covers_a_batch_without_poison() {
        assert_eq!(acks(&[4, 5, 6], &[]), [ack(6, true)]);
    }

    #[test]
    fn an_ack_of_several_stops_before_the_first_poison() {
        assert_eq!(
            acks(&[4, 5, 7, 8], &[6, 9]),
            [ack(5, true), ack(7, false), ack(8, false)]
        );
    }

    #[test]
    fn poison_at_the_head_of_a_batch_leaves_single_acks() {
        assert_eq!(acks(&[5, 6], &[4]), [ack(5, false), ack(6, false)]);
    }

    #[test]
    fn a_batch_of_poison_needs_no_acks() {
        assert_eq!(acks(&[], &[1, 2]), []);
    }
}
