//! `sms_outbound_queue` → `sms_messages`: a batch of deliveries is one transaction, acked when it has
//! committed. What can never become a row goes to the dead letters with its reason.

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
    declare_queue, next_batch, receive_span,
};
use service_runtime::database::{self, StoreError};
use sqlx::PgPool;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use uuid::Uuid;
use wire_contract::{SMS_OUTBOUND_DEAD, SMS_OUTBOUND_QUEUE, specs};

use super::delivery::{DeadReason, Poison, Readable, sort};
use super::metrics;
use super::store::{self, ReceivedSms, Stored};
use super::usage::Usage;

/// Begins this consumer's tags, as the broker's tools show them.
const CONSUMER_TAG: &str = "server-b.sms";
/// Two batches: one in the database, one on its way here.
const PREFETCH: u16 = 1000;
/// Rows of one statement at most.
const BATCH: usize = 500;
/// How long a batch waits to grow.
const LINGER: Duration = Duration::from_millis(5);

/// Consumes until the shutdown, then settles the batch in hand.
///
/// # Errors
/// None: it connects again for ever.
pub async fn run(
    connector: Connector,
    intake: Intake,
    state: Arc<RwLock<ConnectionState>>,
) -> anyhow::Result<()> {
    let shutdown = intake.shutdown.clone();
    connector
        .supervise("consume SMS", &state, &shutdown, |connection| {
            let intake = &intake;
            async move {
                let ended = intake.session(&connection).await;
                // Whatever ended it: only the end of the connection returns what is not acked.
                close(&connection).await;
                ended
            }
        })
        .await;
    Ok(())
}

/// What a batch is brought to its end with.
#[derive(Debug)]
pub struct Intake {
    /// Takes the dead letters.
    pub publisher: Publisher,
    /// The database.
    pub pool: PgPool,
    /// Validity of an SMS that names none.
    pub validity: Duration,
    /// Told what users have used.
    pub usage: Usage,
    /// Notified when there are new rows.
    pub wake: Arc<Notify>,
    /// Ends the consumer.
    pub shutdown: CancellationToken,
}

/// What the database did with a batch.
enum Inserted {
    Committed,
    Refused { sqlstate: String },
}

impl Intake {
    async fn session(&self, connection: &Connection) -> Result<(), SessionError> {
        let channel = connection.create_channel().await?;
        let mut consumer = subscribe(&channel).await?;
        loop {
            let batch = tokio::select! {
                // A batch that is still growing goes back to the queue.
                () = self.shutdown.cancelled() => return Ok(()),
                batch = next_batch(&mut consumer, BATCH, LINGER) => batch?,
            };
            let span = receive_span(SMS_OUTBOUND_QUEUE, &batch);
            match self.settle(&channel, batch).instrument(span).await {
                Ok(()) => {}
                // Told to stop meanwhile, so not a failure: what is not acked returns to the queue.
                Err(error) if self.shutdown.is_cancelled() => {
                    tracing::info!(
                        reason = format!("{error:#}"),
                        "a batch of SMS was left in the queue"
                    );
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Brings each delivery to its end: a committed row or a confirmed dead letter, and then the ack.
    async fn settle(&self, channel: &Channel, deliveries: Vec<Delivery>) -> anyhow::Result<()> {
        metrics::RECEIVED.inc_by(deliveries.len() as u64);
        let (readable, mut poison) = sort(deliveries);
        let (stored, refused) = self.store(channel, readable).await?;
        poison.extend(refused);
        if !stored.is_empty() {
            self.wake.notify_one();
        }
        let open: Vec<u64> = poison.iter().map(|it| it.delivery.delivery_tag).collect();
        ack_settled(channel, &stored, &open).await?;
        // After the acks: what is good does not wait for what is bad.
        try_join_all(poison.iter().map(|it| self.bury(it))).await?;
        Ok(())
    }

    /// Inserts all that the database takes; returns the tags of what is stored, and what it refused.
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

    /// Inserts a batch, trying again while the database is away.
    ///
    /// # Errors
    /// If meanwhile the channel is lost or the process is to stop; the batch is then still the broker's.
    async fn insert(&self, channel: &Channel, batch: &[Readable]) -> anyhow::Result<Inserted> {
        if batch.is_empty() {
            return Ok(Inserted::Committed);
        }
        let rows: Vec<&ReceivedSms> = batch.iter().map(|it| &it.sms).collect();
        let mut pauses = database::retry_pauses();
        loop {
            // Boxed: it is large, and part of everything around it.
            match Box::pin(store::insert(&self.pool, &rows, self.validity)).await {
                Ok(stored) => {
                    count(&stored, batch.len());
                    self.usage.stored(stored.usage, &rows);
                    return Ok(Inserted::Committed);
                }
                Err(StoreError::Content { sqlstate }) => {
                    return Ok(Inserted::Refused { sqlstate });
                }
                Err(StoreError::Unavailable(error)) => {
                    let error = error.to_string();
                    tracing::warn!(error, count = batch.len(), "cannot store SMS, trying again");
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
            SMS_OUTBOUND_QUEUE,
            SMS_OUTBOUND_DEAD,
            &reason.to_string(),
        )
        .await?;
        metrics::DEAD_LETTERED
            .with_label_values(&[reason.label()])
            .inc();
        Ok(())
    }
}

fn count(stored: &Stored, deliveries: usize) {
    metrics::STORED.inc_by(stored.new);
    metrics::DUPLICATES.inc_by(deliveries as u64 - stored.new);
    metrics::OVER_QUOTA.inc_by(stored.over_quota);
    metrics::CONFLICTS.inc_by(stored.conflicts);
}

async fn subscribe(channel: &Channel) -> anyhow::Result<Consumer> {
    // First the place where poison goes: nothing is taken before it exists.
    for queue in [specs::sms_outbound_dead(), specs::sms_outbound()] {
        declare_queue(channel, &queue).await?;
    }
    channel
        .basic_qos(PREFETCH, BasicQosOptions::default())
        .await
        .context("cannot set the prefetch")?;
    let tag = format!("{CONSUMER_TAG}.{}", Uuid::now_v7().simple());
    channel
        .basic_consume(
            SMS_OUTBOUND_QUEUE.into(),
            tag.into(),
            // Acked by hand, and not exclusive: other server Bs consume beside this one.
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await
        .with_context(|| format!("cannot consume {SMS_OUTBOUND_QUEUE}"))
}
