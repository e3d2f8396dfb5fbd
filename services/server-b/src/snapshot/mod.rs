//! `config_snapshot_requests` → every user, into the asking replica's own queue.
//!
//! Requests that arrive together are one *round*: `snapshot.started` is confirmed in every queue of the
//! round, then the users are read once into a temporary file, then each replica gets the chunks as fast as
//! it acknowledges them. A late request never joins a round that has begun: it must not get rows that
//! were read before its own start.

pub(crate) mod metrics;
pub mod read;
mod send;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::StreamExt;
use futures_util::future::join_all;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, Consumer};
use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;
use service_runtime::amqp::{
    ConnectionState, Connector, Publisher, consume, declare_queue, event_type, set_up,
};
use sqlx::PgPool;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use wire_contract::{
    CONFIG_SNAPSHOT_REQUESTS, ConfigEvent, ProbeAnswer, REPLICA_QUEUE_PREFIX, ReplicaProbe,
    SnapshotCause, SnapshotCredit, SnapshotRequest, decode_json, specs,
};

use crate::lock::{self, Lock};

/// A round begins when no request has come for so long: replicas that restart together share one read.
const GATHER_QUIET: Duration = Duration::from_secs(1);
/// Once a second replica has asked, many are restarting, and a busy machine spreads them.
const GATHER_QUIET_OF_MANY: Duration = Duration::from_millis(1500);
/// But no later than this after its first request. Replicas repeat a request later than that: the repetition may get to
/// another server B, which would read the table once more.
pub const GATHER_AT_MOST: Duration = Duration::from_secs(4);
/// Pause before another try to have the turn.
const RETRY: Duration = Duration::from_millis(500);
/// So long the turn is kept while the broker is away.
const KEPT_WITHOUT_BROKER: Duration = Duration::from_secs(5);
/// Unacknowledged requests.
const PREFETCH: u16 = 200;
/// Reads of the table at a time. Requests that come meanwhile share the next.
const READS: usize = 1;

/// The replicas that are being served, by (snapshot, queue).
type Served = Arc<Mutex<HashMap<(Uuid, String), Credit>>>;

/// A replica that is being served.
struct Credit {
    /// What it asked with: a repetition, sent before it saw the start, is no news.
    request_id: Uuid,
    /// Chunks that it has acknowledged.
    chunks: watch::Sender<u32>,
}

/// Serves snapshots.
#[derive(Debug)]
pub struct Snapshots {
    /// Makes the connection that consumes requests and credit.
    pub connector: Connector,
    /// Publishes to the replicas' queues.
    pub publisher: Publisher,
    /// Database.
    pub pool: PgPool,
    /// Told when a replica differs from the digest.
    pub suspicion: Arc<Notify>,
    /// The state of the consuming connection.
    pub state: Arc<RwLock<ConnectionState>>,
}

impl Snapshots {
    /// Serves until `shutdown`, while no other server B does; a round under way is cut then, and its replicas ask again.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        loop {
            // Without a broker nobody is answered: another server B may have one.
            let turn = async {
                while !self.publisher.is_open() {
                    tokio::time::sleep(RETRY).await;
                }
                Lock::acquire(&self.pool, lock::SNAPSHOTS).await
            };
            let turn = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                turn = turn => turn,
            };
            match turn {
                Ok(turn) => self.serve(turn, shutdown.child_token()).await,
                Err(error) => {
                    tracing::debug!(
                        error = format!("{error:#}"),
                        "no turn to answer snapshot requests"
                    );
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }

    /// Until the turn is over, there has been no broker for a while, or `ended` is cancelled.
    async fn serve(&self, mut turn: Lock, ended: CancellationToken) {
        let reads = Arc::new(Semaphore::new(READS));
        let sessions =
            self.connector
                .supervise("snapshot requests", &self.state, &ended, |connection| {
                    self.session(connection, Arc::clone(&reads), &ended)
                });
        let watch = async {
            let lost = tokio::select! {
                () = ended.cancelled() => return,
                lost = turn.lost() => lost,
                () = self.no_broker() => anyhow::anyhow!("no broker"),
            };
            tracing::warn!(
                error = format!("{lost:#}"),
                "another server B may answer snapshot requests"
            );
            ended.cancel();
        };
        tokio::join!(sessions, watch);
    }

    /// Returns when the broker has been away for longer than a restart of it takes to be noticed.
    async fn no_broker(&self) {
        let mut open = Instant::now();
        while open.elapsed() < KEPT_WITHOUT_BROKER {
            tokio::time::sleep(RETRY).await;
            if self.publisher.is_open() && self.state.read().connected {
                open = Instant::now();
            }
        }
    }

    async fn session(
        &self,
        connection: Connection,
        reads: Arc<Semaphore>,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<()> {
        let served = Served::default();
        let credit_queue = format!("server-b.{}", Uuid::now_v7().simple());
        let (channel, mut requests) = set_up(consume_requests(&connection)).await?;
        let mut credit = set_up(consume_credit(&connection, &credit_queue)).await?;
        // Rounds end with their session: their credit queue is gone.
        let mut rounds: JoinSet<()> = JoinSet::new();
        let mut next = NextRound::default();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => {
                    self.cut(&served, &mut rounds).await;
                    return Ok(());
                }
                delivery = credit.next() => {
                    self.take_credit(&served, &delivery.context("credit consumer cancelled")??);
                }
                delivery = requests.next() => {
                    let delivery = delivery.context("request consumer cancelled")??;
                    self.take(&mut next, &served, &delivery);
                    // A replica that is not served asks again: nothing is lost by acknowledging now.
                    channel
                        .basic_ack(delivery.delivery_tag, BasicAckOptions::default())
                        .await?;
                }
                permit = next.may_begin(&reads) => {
                    let round = send::Round::new(
                        self.pool.clone(),
                        self.publisher.clone(),
                        credit_queue.clone(),
                        next.take(),
                        &served,
                    );
                    rounds.spawn(round.serve(permit));
                }
                Some(ended) = rounds.join_next(), if !rounds.is_empty() => {
                    ended.context("a round of snapshots panicked")?;
                }
            }
        }
    }

    /// The turn is over: replicas that are being served ask again, of whoever has it now.
    async fn cut(&self, served: &Served, rounds: &mut JoinSet<()>) {
        let replicas: Vec<_> = (served.lock().iter())
            .filter(|(_, credit)| !credit.chunks.is_closed())
            .map(|(key, _)| key.clone())
            .collect();
        rounds.shutdown().await;
        let told = replicas
            .iter()
            .map(|(snapshot_id, queue)| send::give_up(&self.publisher, *snapshot_id, queue));
        join_all(told).await;
        metrics::failed(replicas.len());
    }

    /// Lets more chunks go out. Who is not served (any more) learns it: it may have missed that its snapshot was given up.
    fn take_credit(&self, served: &Served, delivery: &Delivery) {
        let Some(credit) = decode::<SnapshotCredit>(delivery, |credit| &credit.queue) else {
            return;
        };
        let key = (credit.snapshot_id, credit.queue);
        if let Some(replica) = served.lock().get(&key) {
            replica.chunks.send_if_modified(|chunks| {
                let grew = credit.chunks > *chunks;
                *chunks = credit.chunks.max(*chunks);
                grew
            });
            return;
        }
        let publisher = self.publisher.clone();
        tokio::spawn(async move { send::give_up(&publisher, key.0, &key.1).await });
    }

    /// A request joins the next round; a probe is answered at once.
    fn take(&self, next: &mut NextRound, served: &Served, delivery: &Delivery) {
        if event_type(delivery) == "replica.probe" {
            if let Some(probe) = decode::<ReplicaProbe>(delivery, |probe| &probe.queue) {
                tokio::spawn(answer(self.pool.clone(), self.publisher.clone(), probe));
            }
        } else if let Some(request) = decode::<SnapshotRequest>(delivery, |request| &request.queue)
        {
            if request.cause == SnapshotCause::Mismatch {
                self.suspicion.notify_one();
            }
            if !is_served(served, request.request_id) {
                next.add(request);
            }
        }
    }
}

fn is_served(served: &Served, request_id: Uuid) -> bool {
    let served = served.lock();
    served.values().any(|it| it.request_id == request_id)
}

/// The requests of the round that has yet to begin, one per queue.
#[derive(Default)]
struct NextRound {
    requests: HashMap<String, SnapshotRequest>,
    begins: Option<(Instant, Instant)>,
}

impl NextRound {
    fn add(&mut self, request: SnapshotRequest) {
        let now = Instant::now();
        let latest = self
            .begins
            .map_or(now + GATHER_AT_MOST, |(_, latest)| latest);
        let replaced = self.requests.insert(request.queue.clone(), request);
        if replaced.is_some() {
            return;
        }
        let quiet = if self.requests.len() > 1 {
            GATHER_QUIET_OF_MANY
        } else {
            GATHER_QUIET
        };
        self.begins = Some(((now + quiet).min(latest), latest));
    }

    fn take(&mut self) -> Vec<SnapshotRequest> {
        self.begins = None;
        self.requests.drain().map(|(_, request)| request).collect()
    }

    /// Resolves when no further request is waited for and the table may be read; meanwhile more may join.
    async fn may_begin(&self, reads: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        match self.begins {
            None => std::future::pending().await,
            Some((at, _)) => {
                tokio::time::sleep_until(at).await;
                Arc::clone(reads).acquire_owned().await.ok()
            }
        }
    }
}

/// Tells a replica that misses bookmarks whether they are being sent.
async fn answer(pool: PgPool, publisher: Publisher, probe: ReplicaProbe) {
    let age: sqlx::Result<Option<i64>> = sqlx::query_scalar(
        "SELECT (extract(epoch FROM now() - bookmarked_at) * 1000)::bigint FROM relay_state",
    )
    .fetch_one(&pool)
    .await;
    let age = match age {
        Ok(age) => age,
        Err(error) => return tracing::warn!(%error, "a replica's probe is not answered"),
    };
    let event = ConfigEvent::ProbeAnswer(ProbeAnswer {
        // From the future, as after a failover to a server whose clock is behind, it tells nothing.
        bookmark_age_ms: age.and_then(|age| u64::try_from(age).ok()),
    });
    if let Err(error) = publisher
        .publish(send::to_replica(&probe.queue, &event))
        .await
    {
        tracing::info!(instance = probe.instance, %error, "a replica's probe is not answered");
    }
}

async fn consume_requests(connection: &Connection) -> anyhow::Result<(Channel, Consumer)> {
    let channel = connection.create_channel().await?;
    declare_queue(&channel, &specs::snapshot_requests()).await?;
    let consumer = consume(&channel, CONFIG_SNAPSHOT_REQUESTS, "snapshots", PREFETCH).await?;
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

/// A message that names a replica's queue; anything else is noted and left.
fn decode<T: DeserializeOwned>(delivery: &Delivery, queue: fn(&T) -> &String) -> Option<T> {
    match decode_json::<T>(event_type(delivery), &delivery.data) {
        Ok(message) if queue(&message).starts_with(REPLICA_QUEUE_PREFIX) => Some(message),
        Ok(message) => {
            tracing::warn!(
                queue = queue(&message),
                "request for a foreign queue ignored"
            );
            None
        }
        Err(error) => {
            tracing::warn!(%error, "malformed request ignored");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use service_runtime::config::AmqpArgs;

    use super::*;

    #[tokio::test]
    async fn a_replica_whose_start_is_not_confirmed_may_repeat_its_request_at_once() {
        let args = AmqpArgs {
            rabbitmq_url: "amqp://guest:guest@127.0.0.1:1/".to_owned().into(),
            rabbitmq_ca_file: None,
        };
        let connector = Connector::new("test", &args).expect("a valid URL");
        // Nobody runs it: nothing is confirmed.
        let (publisher, task) = crate::relay::publisher(connector, CancellationToken::new());
        drop(task);
        let pool = PgPool::connect_lazy("postgres://127.0.0.1:1/").expect("a valid URL");
        let request = SnapshotRequest {
            request_id: Uuid::now_v7(),
            queue: "server-a.test.1".to_owned(),
            instance: "test".to_owned(),
            cause: SnapshotCause::Connected,
        };
        let id = request.request_id;
        let served = Served::default();
        let credit_queue = "server-b.test".to_owned();
        let mut round = send::Round::new(pool, publisher, credit_queue, vec![request], &served);
        assert!(is_served(&served, id), "a repetition is no news");
        assert!(round.start().await.is_empty());
        assert!(
            !is_served(&served, id),
            "while the round goes on for others"
        );
    }
}
