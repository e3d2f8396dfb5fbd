//! A queue whose messages become rows: a batch of deliveries is one transaction, acked when it has committed. What can never
//! become a row goes to the dead letters with its reason.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use lapin::message::Delivery;
use lapin::{Channel, Connection};
use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use uuid::Uuid;
use wire_contract::DecodeError;

use crate::amqp::{
    ConnectionState, Connector, Destination, MessageSpan, Publisher, SessionError, ack_settled,
    close, consume, dead_letter, next_batch, receive_span,
};
use crate::database::{self, StoreError};
use crate::trace;

/// Two batches: one in the database, one on its way here.
pub const PREFETCH: u16 = 1000;
/// Rows of one transaction at most.
pub const BATCH: usize = 500;
/// How long a batch waits to grow.
pub const LINGER: Duration = Duration::from_millis(5);

/// The rows that the messages of a queue become.
pub trait Rows: Send + Sync {
    /// What is read from a message, and inserted.
    type Row: Send + Sync;
    /// Stands for deliveries that are not settled yet.
    type InHand: Send;

    /// Declares the queue and that of its dead letters.
    fn declare(&self, channel: &Channel) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Counts deliveries. What it returns is dropped when they are settled, or given up.
    fn received(&self, deliveries: &[Delivery]) -> Self::InHand;

    /// Reads a message. What follows from its row follows from `span`.
    ///
    /// # Errors
    /// The reason why it can never become a row.
    fn read(&self, delivery: &Delivery, span: &MessageSpan) -> Result<Self::Row, DeadReason>;

    /// Inserts rows, all of them or none, and counts them when they are committed. A row that is there already counts as
    /// done.
    fn insert(&self, rows: &[&Self::Row]) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Counts a dead letter, by [`DeadReason::label`].
    fn dead_lettered(&self, reason: &'static str);
}

/// Why a message can never become a row; without contents, since it goes to the log.
#[derive(Debug, thiserror::Error)]
pub enum DeadReason {
    /// Of another type than the queue's.
    #[error("unknown type: not {expected}")]
    UnknownType {
        /// The queue's.
        expected: &'static str,
    },
    /// Not the JSON that its type has.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    /// Well-formed, and not acceptable.
    #[error("invalid field {field}: {must}")]
    InvalidField {
        /// Which.
        field: &'static str,
        /// What it must be.
        must: &'static str,
    },
    /// The database takes all of the batch but this.
    #[error("refused by the database: SQLSTATE {sqlstate}")]
    Refused {
        /// PostgreSQL's code.
        sqlstate: String,
    },
}

impl DeadReason {
    /// All of [`Self::label`].
    pub const LABELS: [&str; 4] = [
        "unknown_type",
        "malformed",
        "invalid_field",
        "refused_by_database",
    ];

    /// The metric's label.
    #[must_use]
    pub fn label(&self) -> &'static str {
        let [unknown_type, malformed, invalid_field, refused] = Self::LABELS;
        match self {
            Self::UnknownType { .. } => unknown_type,
            Self::Malformed(_) => malformed,
            Self::InvalidField { .. } => invalid_field,
            Self::Refused { .. } => refused,
        }
    }
}

/// Takes a queue's messages in.
#[derive(Debug)]
pub struct Intake<R> {
    /// What they become.
    pub rows: R,
    /// To the broker.
    pub connector: Connector,
    /// The queue.
    pub queue: String,
    /// Where its dead letters go.
    pub dead_queue: String,
    /// Names the connection, in metrics too.
    pub purpose: &'static str,
    /// Begins this consumer's tags, as the broker's tools show them.
    pub consumer_tag: &'static str,
    /// Takes the dead letters.
    pub publisher: Publisher,
    /// Of the connection, for `/status`.
    pub state: Arc<RwLock<ConnectionState>>,
    /// Ends it, after the batch in hand.
    pub shutdown: CancellationToken,
}

/// A delivery and what was read from it.
struct Readable<T> {
    delivery: Delivery,
    row: T,
    /// Ends when the row is committed, or refused.
    span: MessageSpan,
}

/// A delivery that can never become a row.
struct Poison {
    delivery: Delivery,
    reason: DeadReason,
}

/// What the database did with a batch.
enum Inserted {
    Committed,
    Refused { sqlstate: String },
}

impl<R: Rows> Intake<R> {
    /// Consumes until the shutdown, then settles the batch in hand.
    ///
    /// # Errors
    /// None: it connects again for ever.
    pub async fn run(self) -> anyhow::Result<()> {
        let session = |connection: Connection| {
            let intake = &self;
            async move {
                let ended = intake.session(&connection).await;
                // Whatever ended it: only the end of the connection returns what is not acked.
                close(&connection).await;
                ended
            }
        };
        self.connector
            .supervise(self.purpose, &self.state, &self.shutdown, session)
            .await;
        Ok(())
    }

    async fn session(&self, connection: &Connection) -> Result<(), SessionError> {
        let channel = connection.create_channel().await?;
        // First the place where poison goes: nothing is taken before it exists.
        self.rows.declare(&channel).await?;
        let tag = format!("{}.{}", self.consumer_tag, Uuid::now_v7().simple());
        let mut consumer = consume(&channel, &self.queue, &tag, PREFETCH).await?;
        loop {
            let batch = tokio::select! {
                // A batch that is still growing goes back to the queue.
                () = self.shutdown.cancelled() => return Ok(()),
                batch = next_batch(&mut consumer, BATCH, LINGER) => batch?,
            };
            let span = receive_span(&self.queue, &batch);
            match self.settle(&channel, batch).instrument(span).await {
                Ok(()) => {}
                // Told to stop meanwhile, so not a failure: what is not acked returns to the queue.
                Err(error) if self.shutdown.is_cancelled() => {
                    let (queue, reason) = (&self.queue, format!("{error:#}"));
                    tracing::info!(queue, reason, "a batch was left in the queue");
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Brings each delivery to its end: a committed row or a confirmed dead letter, and then the ack.
    async fn settle(&self, channel: &Channel, deliveries: Vec<Delivery>) -> anyhow::Result<()> {
        let _in_hand = self.rows.received(&deliveries);
        let (readable, mut poison) = self.sort(deliveries);
        let (stored, refused) = self.store(channel, readable).await?;
        poison.extend(refused);
        let open: Vec<u64> = poison.iter().map(|it| it.delivery.delivery_tag).collect();
        ack_settled(channel, &stored, &open).await?;
        // After the acks: what is good does not wait for what is bad.
        try_join_all(poison.iter().map(|it| self.bury(it))).await?;
        Ok(())
    }

    /// Reads each delivery; both results keep the order.
    fn sort(&self, deliveries: Vec<Delivery>) -> (Vec<Readable<R::Row>>, Vec<Poison>) {
        let (from, batch) = (Destination::named(&self.queue), trace::current());
        let (mut readable, mut poison) = (Vec::with_capacity(deliveries.len()), Vec::new());
        for delivery in deliveries {
            let mut span = MessageSpan::process(from, &delivery, Some(&batch));
            match self.rows.read(&delivery, &span) {
                Ok(row) => readable.push(Readable {
                    delivery,
                    row,
                    span,
                }),
                Err(reason) => {
                    span.fail(reason.label());
                    poison.push(Poison { delivery, reason });
                }
            }
        }
        (readable, poison)
    }

    /// Inserts all that the database takes; returns the tags of what is stored, ascending, and what it refused.
    async fn store(
        &self,
        channel: &Channel,
        readable: Vec<Readable<R::Row>>,
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
                    refused.extend(batch.into_iter().map(|it| it.refused(sqlstate.clone())));
                }
            }
        }
        Ok((stored, refused))
    }

    /// Inserts a batch, trying again while the database is away: the batch is kept, so nothing is redelivered for that.
    ///
    /// # Errors
    /// If meanwhile the channel is lost or the process is to stop; the batch is then still the broker's.
    async fn insert(
        &self,
        channel: &Channel,
        batch: &[Readable<R::Row>],
    ) -> anyhow::Result<Inserted> {
        if batch.is_empty() {
            return Ok(Inserted::Committed);
        }
        let rows: Vec<&R::Row> = batch.iter().map(|it| &it.row).collect();
        let mut pauses = database::retry_pauses();
        loop {
            // Boxed: it is large, and part of everything around it.
            match Box::pin(self.rows.insert(&rows)).await {
                Ok(()) => return Ok(Inserted::Committed),
                Err(StoreError::Content { sqlstate }) => return Ok(Inserted::Refused { sqlstate }),
                Err(StoreError::Unavailable(error)) => {
                    let (queue, error) = (&self.queue, error.to_string());
                    let count = batch.len();
                    tracing::warn!(queue, error, count, "cannot store a batch, trying again");
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
        let (queue, dead) = (&self.queue, &self.dead_queue);
        dead_letter(&self.publisher, delivery, queue, dead, &reason.to_string()).await?;
        self.rows.dead_lettered(reason.label());
        Ok(())
    }
}

impl<T> Readable<T> {
    /// The database would not take it.
    fn refused(mut self, sqlstate: String) -> Poison {
        let reason = DeadReason::Refused { sqlstate };
        self.span.fail(reason.label());
        Poison {
            delivery: self.delivery,
            reason,
        }
    }
}
