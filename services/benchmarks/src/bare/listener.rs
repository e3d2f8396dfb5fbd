//! Consumers of `config_events_exchange` with a queue like a replica's, that tell when each message came.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::BasicAckOptions;
use lapin::{Channel, Connection, Consumer};
use service_runtime::amqp::{close, subscribe};
use tokio::task::JoinHandle;
use uuid::Uuid;
use wire_contract::specs;

use crate::bare;

/// As a replica's.
const PREFETCH: u16 = 1000;
/// Deliveries for one ack.
const ACK_EVERY: u64 = 100;
/// A last ack is not put off for longer.
const ACK_AFTER: Duration = Duration::from_millis(20);

/// One bound queue and who reads it. Ends when dropped.
pub struct Listener {
    seen: Arc<AtomicU64>,
    task: JoinHandle<Result<()>>,
    connection: Connection,
}

impl Listener {
    /// Binds a queue of its own, and calls `take` for each delivery; those for which it says so are counted.
    pub async fn start(
        url: &str,
        mut take: impl FnMut(&Delivery) -> bool + Send + 'static,
    ) -> Result<Self> {
        let connection = bare::connect(url).await?;
        let queue = format!("server-a.listener.{}", Uuid::now_v7().simple());
        let (exchange, queue) = (specs::config_events(), specs::replica(queue));
        let (channel, consumer) = subscribe(&connection, &exchange, &queue, PREFETCH).await?;
        let seen = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            read(consumer, channel, |delivery| {
                if take(delivery) {
                    counted.fetch_add(1, Ordering::Release);
                }
            })
            .await
        });
        Ok(Self {
            seen,
            task,
            connection,
        })
    }

    /// Counts deliveries of one type.
    pub async fn counting(url: &str, event_type: &'static str) -> Result<Self> {
        Self::start(url, move |delivery| is(delivery, event_type)).await
    }

    /// Counted so far.
    pub fn seen(&self) -> u64 {
        self.seen.load(Ordering::Acquire)
    }

    /// Closes the connection; the queue goes with it.
    pub async fn stop(self) {
        self.task.abort();
        close(&self.connection).await;
    }
}

/// Whether a delivery is of this type.
pub fn is(delivery: &Delivery, event_type: &str) -> bool {
    let kind = delivery.properties.kind().as_ref();
    kind.is_some_and(|kind| kind.as_str() == event_type)
}

/// Waits until every listener has seen so many.
pub async fn all_seen(listeners: &[Listener], count: u64, deadline: Duration) -> Result<()> {
    let began = Instant::now();
    while listeners.iter().any(|it| it.seen() < count) {
        let seen: Vec<u64> = listeners.iter().map(Listener::seen).collect();
        anyhow::ensure!(began.elapsed() < deadline, "{seen:?} of {count} came");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

async fn read(
    mut consumer: Consumer,
    channel: Channel,
    mut take: impl FnMut(&Delivery),
) -> Result<()> {
    let (mut last, mut open) = (0, 0);
    loop {
        let next = tokio::time::timeout(ACK_AFTER, consumer.next()).await;
        match next {
            Ok(Some(delivery)) => {
                let delivery = delivery?;
                take(&delivery);
                last = delivery.delivery_tag;
                open += 1;
                if open < ACK_EVERY {
                    continue;
                }
            }
            Ok(None) => return Ok(()),
            Err(_) if open == 0 => continue,
            Err(_) => {}
        }
        let all = BasicAckOptions { multiple: true };
        channel.basic_ack(last, all).await?;
        open = 0;
    }
}
