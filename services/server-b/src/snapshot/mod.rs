//! `config_snapshot_requests` → every user, into the asking replica's own queue.
//!
//! Requests that arrive together are one *round*: `snapshot.started` is confirmed in every queue of the
//! round, then the users are read once into a temporary file, then each replica gets the chunks as fast as
//! it acknowledges them. A late request never joins a round that has begun: it must not get rows that
//! were read before its own start.

pub mod read;
mod send;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, Consumer};
use parking_lot::{Mutex, RwLock};
use service_runtime::amqp::{ConnectionState, Connector, Publisher, declare_queue, event_type};
use sqlx::PgPool;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use wire_contract::{
    CONFIG_SNAPSHOT_REQUESTS, REPLICA_QUEUE_PREFIX, SnapshotCredit, SnapshotRequest, decode_json,
    specs,
};

/// Requests that come within this time of the first share its round.
const GATHER: Duration = Duration::from_millis(50);
/// Requests of one round at most.
const ROUND_SIZE: u16 = 200;
/// Rounds at a time; each holds a database transaction while it reads.
const ROUNDS: usize = 2;

/// Credit of the replicas that are being served: (snapshot, queue) → chunks acknowledged.
type Credits = Arc<Mutex<HashMap<(Uuid, String), watch::Sender<u32>>>>;

/// Serves snapshots.
#[derive(Debug)]
pub struct Snapshots {
    /// Makes the connection that consumes requests and credit.
    pub connector: Connector,
    /// Publishes to the replicas' queues.
    pub publisher: Publisher,
    /// Database.
    pub pool: PgPool,
    /// The state of the consuming connection.
    pub state: Arc<RwLock<ConnectionState>>,
}

impl Snapshots {
    /// Serves until `shutdown`; a round under way is cut then, and its replicas ask again.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let rounds = Arc::new(Semaphore::new(ROUNDS));
        self.connector
            .supervise("snapshots", &self.state, &shutdown, |connection| {
                self.session(connection, Arc::clone(&rounds), &shutdown)
            })
            .await;
        Ok(())
    }

    async fn session(
        &self,
        connection: Connection,
        rounds: Arc<Semaphore>,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<()> {
        let credits = Credits::default();
        let credit_queue = format!("server-b.{}", Uuid::now_v7().simple());
        let (requests_channel, mut requests) = consume_requests(&connection).await?;
        let mut credit = consume_credit(&connection, &credit_queue).await?;
        // Ends the rounds of this session with it: their credit queue is gone.
        let session = shutdown.child_token();
        let _ends_with_session = session.clone().drop_guard();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                delivery = credit.next() => {
                    take_credit(&credits, &delivery.context("credit consumer cancelled")??);
                }
                delivery = requests.next() => {
                    let first = delivery.context("request consumer cancelled")??;
                    let round = gather(&requests_channel, &mut requests, first).await?;
                    let task = send::round(send::Round {
                        pool: self.pool.clone(),
                        publisher: self.publisher.clone(),
                        credits: Arc::clone(&credits),
                        credit_queue: credit_queue.clone(),
                        requests: round,
                        permits: Arc::clone(&rounds),
                    });
                    let session = session.clone();
                    tokio::spawn(async move {
                        tokio::select! {
                            () = session.cancelled() => {}
                            () = task => {}
                        }
                    });
                }
            }
        }
    }
}

async fn consume_requests(connection: &Connection) -> anyhow::Result<(Channel, Consumer)> {
    let channel = connection.create_channel().await?;
    declare_queue(&channel, &specs::snapshot_requests()).await?;
    channel
        .basic_qos(ROUND_SIZE, BasicQosOptions::default())
        .await?;
    let consumer = channel
        .basic_consume(
            CONFIG_SNAPSHOT_REQUESTS.into(),
            "snapshots".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await
        .context("cannot consume snapshot requests")?;
    Ok((channel, consumer))
}

async fn consume_credit(connection: &Connection, queue: &str) -> anyhow::Result<Consumer> {
    let channel = connection.create_channel().await?;
    declare_queue(&channel, &specs::credit(queue.to_owned())).await?;
    let options = BasicConsumeOptions {
        // Credit carries totals: one that is lost is made up for by the next.
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    channel
        .basic_consume(
            queue.into(),
            "credit".into(),
            options,
            FieldTable::default(),
        )
        .await
        .context("cannot consume credit")
}

fn take_credit(credits: &Credits, delivery: &Delivery) {
    match decode_json::<SnapshotCredit>(event_type(delivery), &delivery.data) {
        Ok(credit) => {
            let key = (credit.snapshot_id, credit.queue);
            if let Some(sender) = credits.lock().get(&key) {
                sender.send_if_modified(|chunks| {
                    let grew = credit.chunks > *chunks;
                    *chunks = credit.chunks.max(*chunks);
                    grew
                });
            }
        }
        Err(error) => tracing::warn!(%error, "malformed snapshot credit ignored"),
    }
}

/// One round: the first request and those that follow at once, one per queue. Acknowledged here: a
/// replica that is not served asks again.
async fn gather(
    channel: &Channel,
    requests: &mut Consumer,
    first: Delivery,
) -> anyhow::Result<Vec<SnapshotRequest>> {
    tokio::time::sleep(GATHER).await;
    let mut last_tag = first.delivery_tag;
    let mut round = HashMap::new();
    let mut next = Some(first);
    while let Some(delivery) = next {
        last_tag = delivery.delivery_tag;
        if let Some(request) = request_of(&delivery) {
            round.insert(request.queue.clone(), request);
        }
        next = match requests.next().now_or_never() {
            Some(Some(delivery)) => Some(delivery?),
            _ => None,
        };
    }
    channel
        .basic_ack(last_tag, BasicAckOptions { multiple: true })
        .await?;
    Ok(round.into_values().collect())
}

fn request_of(delivery: &Delivery) -> Option<SnapshotRequest> {
    match decode_json::<SnapshotRequest>(event_type(delivery), &delivery.data) {
        Ok(request) if request.queue.starts_with(REPLICA_QUEUE_PREFIX) => Some(request),
        Ok(request) => {
            tracing::warn!(
                queue = request.queue,
                "snapshot request for a foreign queue ignored"
            );
            None
        }
        Err(error) => {
            tracing::warn!(%error, "malformed snapshot request ignored");
            None
        }
    }
}
