//! The queue of `UserCreated` → `auth_user_references`: a batch of deliveries is one statement, acked when
//! it has committed. What can never become a row goes to the dead letters with its reason.

mod event;
pub mod metrics;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::future::try_join_all;
use lapin::message::Delivery;
use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, Consumer};
use parking_lot::RwLock;
use service_runtime::amqp::{
    ConnectionState, Connector, Publisher, SessionError, ack_settled, close, dead_letter,
    next_batch, receive_span,
};
use service_runtime::database::{self, StoreError};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use uuid::Uuid;

pub use event::read;

use crate::references::{self, NewReference};
use crate::topology::{self, QueueArgs};
use event::{DeadReason, Poison, Readable, sort};

/// Begins this consumer's tags, as the broker's tools show them.
const CONSUMER_TAG: &str = "user-service";
/// Two batches: one in the database, one on its way here.
pub const PREFETCH: u16 = 1000;
/// Rows of one statement at most.
pub const BATCH: usize = 500;
/// How long a batch waits to grow.
pub const LINGER: Duration = Duration::from_millis(5);

/// What the consumer works with.
#[derive(Debug)]
pub struct UserCreatedConsumer {
    /// To the broker.
    pub connector: Connector,
    /// Queues, exchange, binding.
    pub names: QueueArgs,
    /// Takes the dead letters.
    pub publisher: Publisher,
    /// The database. Tables that are yet to be made are waited for like a database that is down.
    pub pool: PgPool,
    /// Shown by `/status`.
    pub state: Arc<RwLock<ConnectionState>>,
    /// Ends the consumer, after the batch in hand.
    pub shutdown: CancellationToken,
}

/// What the database did with a batch.
enum Inserted {
    Committed,
    Refused { sqlstate: String },
}

impl UserCreatedConsumer {
    /// Consumes until the shutdown.
    ///
    /// # Errors
    /// None: it connects again for ever.
    pub async fn run(self) -> anyhow::Result<()> {
        metrics::register();
        self.connector
            .supervise(
                "consume UserCreated",
                &self.state,
                &self.shutdown,
                |connection| {
                    let consumer = &self;
                    async move {
                        let ended = consumer.session(&connection).await;
                        // Whatever ended it: only the end of the connection returns what is not acked.
                        close(&connection).await;
                        ended
                    }
                },
            )
            .await;
        Ok(())
    }

    async fn session(&self, connection: &Connection) -> Result<(), SessionError> {
        let channel = connection.create_channel().await?;
        topology::declare(&channel, &self.names).await?;
        let mut consumer = subscribe(&channel, &self.names.user_created_queue).await?;
        loop {
            let batch = tokio::select! {
                // A batch that is still growing goes back to the queue.
                () = self.shutdown.cancelled() => return Ok(()),
                batch = next_batch(&mut consumer, BATCH, LINGER) => batch?,
            };
            let span = receive_span(&self.names.user_created_queue, &batch);
            match self.settle(&channel, batch).instrument(span).await {
                Ok(()) => {}
                // Told to stop meanwhile, so not a failure: what is not acked returns to the queue.
                Err(error) if self.shutdown.is_cancelled() => {
                    let reason = format!("{error:#}");
                    tracing::info!(reason, "a batch of events was left in the queue");
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Brings each delivery to its end: a committed row or a confirmed dead letter, and then the ack.
    async fn settle(&self, channel: &Channel, deliveries: Vec<Delivery>) -> anyhow::Result<()> {
        let _in_hand = metrics::InHand::begin();
        let redelivered = deliveries.iter().filter(|it| it.redelivered).count();
        metrics::RECEIVED.inc_by(deliveries.len() as u64);
        metrics::REDELIVERED.inc_by(redelivered as u64);
        let (readable, mut poison) = sort(&self.names.user_created_queue, deliveries);
        let (stored, refused) = self.store(channel, readable).await?;
        poison.extend(refused);
        let open: Vec<u64> = poison.iter().map(|it| it.delivery.delivery_tag).collect();
        ack_settled(channel, &stored, &open).await?;
        // After the acks: what is good does not wait for what is bad.
        try_join_all(poison.iter().map(|it| self.bury(it))).await?;
        Ok(())
    }

    /// Inserts all that the database takes; returns the tags of what is stored, ascending, and what it refused.
    async fn store(
        &self,
        channel: &Channel,
        readable: Vec<Readable>,
    ) -> anyhow::Result<(Vec<u64>, Vec<Poison>)> {
        let (mut stored, mut refused) = (Vec::with_capacity(readable.len()), Vec::new());
        let mut open = vec![readable];
        while let Some(mut batch) = open.pop() {
            match self.insert(channel, &batch).await? {
                Inserted::Committed => {
                    stored.extend(batch.iter().map(|it| it.delivery.delivery_tag));
                }
                // A row is at fault, and the database does not say which: halve until it is alone.
                Inserted::Refused { .. } if batch.len() > 1 => {
                    let second = batch.split_off(batch.len() / 2);
                    open.extend([second, batch]);
                }
                Inserted::Refused { sqlstate } => {
                    refused.extend(batch.into_iter().map(|it| {
                        it.refused(DeadReason::Refused {
                            sqlstate: sqlstate.clone(),
                        })
                    }));
                }
            }
        }
        Ok((stored, refused))
    }

    async fn insert(&self, channel: &Channel, batch: &[Readable]) -> anyhow::Result<Inserted> {
        if batch.is_empty() {
            return Ok(Inserted::Committed);
        }
        let rows: Vec<&NewReference> = batch.iter().map(|it| &it.reference).collect();
        let insert = || references::insert(&self.pool, &rows);
        let new = match self.when_available(channel, insert).await? {
            Ok(new) => new,
            Err(sqlstate) => return Ok(Inserted::Refused { sqlstate }),
        };
        let duplicates = batch.len() as u64 - new;
        metrics::CREATED.inc_by(new);
        metrics::DUPLICATES.inc_by(duplicates);
        if duplicates > 0 {
            let compare = || references::conflicts(&self.pool, &rows);
            if let Ok(ids) = self.when_available(channel, compare).await?
                && !ids.is_empty()
            {
                metrics::CONFLICTS.inc_by(ids.len() as u64);
                tracing::warn!(
                    conflicts = ids.len(),
                    first_user_id = ids[0],
                    "events say something else of users than what is stored, which stays"
                );
            }
        }
        Ok(Inserted::Committed)
    }

    /// Runs a statement, again while the database is away: the batch is kept, so nothing is redelivered for
    /// that. The inner error is the SQLSTATE of a refusal of the content.
    ///
    /// # Errors
    /// If meanwhile the channel is lost or the process is to stop; the batch is then still the broker's.
    async fn when_available<T, F>(
        &self,
        channel: &Channel,
        mut statement: impl FnMut() -> F,
    ) -> anyhow::Result<Result<T, String>>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut pauses = database::retry_pauses();
        loop {
            match statement().await {
                Ok(done) => return Ok(Ok(done)),
                Err(StoreError::Content { sqlstate }) => return Ok(Err(sqlstate)),
                Err(StoreError::Unavailable(error)) => {
                    let error = error.to_string();
                    tracing::warn!(error, "cannot store events, trying again");
                }
            }
            let pause = tokio::time::sleep(pauses.next().unwrap_or_default());
            tokio::select! {
                () = self.shutdown.cancelled() => anyhow::bail!("stopping while the database is away"),
                () = pause => {}
            }
            anyhow::ensure!(
                channel.status().connected(),
                "the channel was lost while the database was away"
            );
        }
    }

    async fn bury(&self, Poison { delivery, reason }: &Poison) -> anyhow::Result<()> {
        dead_letter(
            &self.publisher,
            delivery,
            &self.names.user_created_queue,
            &self.names.user_created_dead_queue,
            &reason.to_string(),
        )
        .await?;
        metrics::DEAD_LETTERED
            .with_label_values(&[reason.label()])
            .inc();
        Ok(())
    }
}

/// Takes deliveries from the queue, [`PREFETCH`] unacked at most.
pub async fn subscribe(channel: &Channel, queue: &str) -> anyhow::Result<Consumer> {
    channel
        .basic_qos(PREFETCH, BasicQosOptions::default())
        .await
        .context("cannot set the prefetch")?;
    let tag = format!("{CONSUMER_TAG}.{}", Uuid::now_v7().simple());
    channel
        .basic_consume(
            queue.into(),
            tag.into(),
            // Acked by hand, and not exclusive: other replicas consume beside this one.
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await
        .with_context(|| format!("cannot consume {queue}"))
}
