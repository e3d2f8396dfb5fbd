//! A confirming publisher: one task owns the connection and the channel, so that order is kept and
//! each answer of the broker is matched with its message.

use std::collections::HashSet;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use lapin::message::BasicReturnMessage;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection, Event};
use parking_lot::RwLock;
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use wire_contract::{CONTENT_TYPE_JSON, ExchangeSpec, HEADER_TRACEPARENT, HEADER_TRACESTATE};

use super::batch::close;
use super::connector::{ConnectionState, Connector, SessionError};
use super::metrics::PublisherMetrics;
use super::topology::declare_exchange;
use crate::trace::TraceContext;

/// Longest wait for the broker's confirm. An alarm of the broker blocks publishers for longer.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(10);
/// Messages handed over but not yet on the channel.
const BACKLOG: usize = 4096;
/// Messages on the channel and not confirmed.
const MAX_IN_FLIGHT: usize = 4096;
/// At shutdown, how long confirms are still waited for.
const LAST_CONFIRMS: Duration = Duration::from_secs(2);

/// A message to publish.
#[derive(Debug, Clone)]
pub struct Message {
    /// Exchange; empty for straight to the queue named by `routing_key`.
    pub exchange: &'static str,
    /// Routing key.
    pub routing_key: String,
    /// Property `type`.
    pub event_type: String,
    /// Property `message_id`.
    pub message_id: Uuid,
    /// JSON.
    pub body: Vec<u8>,
    /// Kept through a restart of the broker, in a durable queue.
    pub persistent: bool,
    /// Whether a message that no queue takes is an error.
    pub mandatory: bool,
    /// Milliseconds after which the broker may drop it.
    pub expiration_ms: Option<u64>,
    /// Further headers.
    pub headers: Vec<(&'static str, AMQPValue)>,
    /// Trace context.
    pub trace: TraceContext,
}

impl Message {
    /// A persistent, mandatory message straight to a queue.
    #[must_use]
    pub fn to_queue(queue: impl Into<String>, event_type: &str, body: Vec<u8>) -> Self {
        Self {
            exchange: "",
            routing_key: queue.into(),
            event_type: event_type.to_owned(),
            message_id: Uuid::now_v7(),
            body,
            persistent: true,
            mandatory: true,
            expiration_ms: None,
            headers: Vec::new(),
            trace: TraceContext::default(),
        }
    }

    /// A transient message to a fanout exchange, which may have no queue bound.
    #[must_use]
    pub fn to_fanout(exchange: &'static str, event_type: &str, body: Vec<u8>) -> Self {
        Self {
            exchange,
            persistent: false,
            mandatory: false,
            ..Self::to_queue("", event_type, body)
        }
    }

    fn properties(&self) -> BasicProperties {
        let mut headers = FieldTable::default();
        for (name, value) in [
            (HEADER_TRACEPARENT, &self.trace.traceparent),
            (HEADER_TRACESTATE, &self.trace.tracestate),
        ] {
            if let Some(value) = value {
                headers.insert(name.into(), AMQPValue::LongString(value.as_str().into()));
            }
        }
        for (name, value) in &self.headers {
            headers.insert((*name).into(), value.clone());
        }
        let now = u64::try_from(OffsetDateTime::now_utc().unix_timestamp()).unwrap_or(0);
        let mut properties = BasicProperties::default()
            .with_content_type(CONTENT_TYPE_JSON.into())
            .with_type(self.event_type.as_str().into())
            .with_message_id(self.message_id.to_string().into())
            .with_timestamp(now)
            .with_delivery_mode(if self.persistent { 2 } else { 1 })
            .with_headers(headers);
        if let Some(expiration) = self.expiration_ms {
            properties = properties.with_expiration(expiration.to_string().into());
        }
        properties
    }
}

/// Why a message was not confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Nothing was sent: there is no connection, or the broker blocks it (an alarm of its memory or disk).
    #[error("RabbitMQ is away, or takes no messages")]
    NotConnected,
    /// No queue took it.
    #[error("no queue takes the message")]
    Unroutable,
    /// The broker would not store it.
    #[error("RabbitMQ refused the message")]
    Refused,
    /// It may or may not have arrived.
    #[error("RabbitMQ did not confirm the message")]
    Unconfirmed,
}

impl PublishError {
    /// The same in a word.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::NotConnected => "not_connected",
            Self::Unroutable => "returned",
            Self::Refused => "refused",
            Self::Unconfirmed => "unconfirmed",
        }
    }
}

struct Job {
    message: Message,
    reply: Reply,
}

/// Answers the caller, and counts the answer. Dropped without one, with its session or the process, the message may or may
/// not have arrived.
struct Reply {
    caller: Option<oneshot::Sender<Answer>>,
    metrics: Arc<PublisherMetrics>,
}

type Answer = Result<(), PublishError>;

impl Reply {
    fn send(mut self, answer: Answer) {
        self.metrics.answered(answer);
        if let Some(caller) = self.caller.take() {
            // A caller that has gone needs no answer.
            let _ = caller.send(answer);
        }
    }

    /// Whether the caller has gone.
    fn is_closed(&self) -> bool {
        self.caller.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if self.caller.is_some() {
            self.metrics.answered(Err(PublishError::Unconfirmed));
        }
    }
}

/// A message that was handed over and is not confirmed yet.
#[derive(Debug)]
pub struct Confirm {
    answer: oneshot::Receiver<Answer>,
    deadline: Instant,
}

impl Confirm {
    /// Waits for the broker.
    pub async fn confirmed(self) -> Result<(), PublishError> {
        match tokio::time::timeout_at(self.deadline, self.answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(PublishError::Unconfirmed),
        }
    }
}

/// What must run for a [`Publisher`].
pub type PublisherTask = BoxFuture<'static, anyhow::Result<()>>;

/// Hands messages to the task that publishes them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Publisher {
    jobs: mpsc::Sender<Job>,
    state: Arc<RwLock<ConnectionState>>,
    open: watch::Receiver<bool>,
    metrics: Arc<PublisherMetrics>,
}

impl Publisher {
    /// A publisher to an exchange, which it declares.
    #[must_use]
    pub fn to_exchange(
        connector: Connector,
        purpose: &'static str,
        exchange: ExchangeSpec,
        shutdown: CancellationToken,
    ) -> (Self, PublisherTask) {
        let set_up = move |channel: Channel| {
            let exchange = exchange.clone();
            async move { declare_exchange(&channel, &exchange).await }.boxed()
        };
        Self::new(connector, purpose, set_up, shutdown)
    }

    /// A publisher to queues that others declare. To one that is not there the broker returns messages.
    #[must_use]
    pub fn to_queues(
        connector: Connector,
        purpose: &'static str,
        shutdown: CancellationToken,
    ) -> (Self, PublisherTask) {
        let set_up = |_| std::future::ready(Ok(())).boxed();
        Self::new(connector, purpose, set_up, shutdown)
    }

    /// A publisher and the task that must run for it. `set_up` declares what will be published to,
    /// on each new connection.
    pub fn new<S>(
        connector: Connector,
        purpose: &'static str,
        set_up: S,
        shutdown: CancellationToken,
    ) -> (Self, PublisherTask)
    where
        S: Fn(Channel) -> BoxFuture<'static, anyhow::Result<()>> + Send + Sync + 'static,
    {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let state = ConnectionState::shared();
        let open = watch::Sender::new(false);
        let publisher = Self {
            jobs: sender,
            state: Arc::clone(&state),
            open: open.subscribe(),
            metrics: Arc::new(PublisherMetrics::new(purpose)),
        };
        let task = run(connector, purpose, set_up, state, open, receiver, shutdown);
        // Large, and held by who puts a service together until it is spawned.
        (publisher, task.boxed())
    }

    /// Publishes and waits for the broker's confirm.
    ///
    /// Of several at a time the order is open: to keep one, see [`Self::hand_over`].
    pub async fn publish(&self, message: Message) -> Result<(), PublishError> {
        self.hand_over(message).await?.confirmed().await
    }

    /// Hands a message over; the broker's confirm is awaited with the result. Messages reach the broker in the order in
    /// which they were handed over, one after the other.
    ///
    /// # Errors
    /// When it could not be handed over, and so was not sent.
    pub async fn hand_over(&self, message: Message) -> Result<Confirm, PublishError> {
        let deadline = Instant::now() + CONFIRM_TIMEOUT;
        let Ok(Ok(place)) = tokio::time::timeout_at(deadline, self.jobs.reserve()).await else {
            self.metrics.answered(Err(PublishError::NotConnected));
            return Err(PublishError::NotConnected);
        };
        let (caller, answer) = oneshot::channel();
        let reply = Reply {
            caller: Some(caller),
            metrics: Arc::clone(&self.metrics),
        };
        place.send(Job { message, reply });
        Ok(Confirm { answer, deadline })
    }

    /// Whether messages are taken now: the connection stands, what is published to has been declared on it, and the broker
    /// does not block it.
    #[must_use]
    pub fn is_open(&self) -> bool {
        *self.open.borrow()
    }

    /// The state of the connection.
    #[must_use]
    pub fn state(&self) -> ConnectionState {
        self.state.read().clone()
    }
}

async fn run<S>(
    connector: Connector,
    purpose: &'static str,
    set_up: S,
    state: Arc<RwLock<ConnectionState>>,
    open: watch::Sender<bool>,
    jobs: mpsc::Receiver<Job>,
    shutdown: CancellationToken,
) -> anyhow::Result<()>
where
    S: Fn(Channel) -> BoxFuture<'static, anyhow::Result<()>> + Send + Sync + 'static,
{
    // A job in the queue belongs to whichever session is up; the lock is taken by one at a time.
    let jobs = tokio::sync::Mutex::new(jobs);
    let supervised = connector.supervise(purpose, &state, &shutdown, |connection| {
        let (jobs, open, set_up, shutdown) = (&jobs, &open, &set_up, &shutdown);
        async move {
            let prepare = async {
                let channel = connection.create_channel().await?;
                set_up(channel.clone()).await?;
                channel
                    .confirm_select(ConfirmSelectOptions::default())
                    .await?;
                anyhow::Ok(channel)
            };
            let channel = super::connector::set_up(prepare).await?;
            open.send_replace(true);
            let ended = session(
                &connection,
                &channel,
                &mut *jobs.lock().await,
                open,
                shutdown,
            )
            .await;
            open.send_replace(false);
            if ended.is_ok() {
                close(&connection).await;
            }
            ended
        }
    });
    tokio::select! {
        () = supervised => Ok(()),
        () = refuse_while_down(&jobs, open.subscribe()) => Ok(()),
    }
}

/// Answers at once while there is no connection: a caller can tell its client to come back.
async fn refuse_while_down(
    jobs: &tokio::sync::Mutex<mpsc::Receiver<Job>>,
    mut open: watch::Receiver<bool>,
) {
    loop {
        if open.wait_for(|up| !up).await.is_err() {
            return;
        }
        let mut jobs = jobs.lock().await;
        loop {
            tokio::select! {
                biased;
                changed = open.wait_for(|up| *up) => {
                    if changed.is_err() {
                        return;
                    }
                    break;
                }
                job = jobs.recv() => match job {
                    Some(job) => job.reply.send(Err(PublishError::NotConnected)),
                    None => return,
                },
            }
        }
    }
}

/// What became of one message.
struct Settled {
    message_id: Uuid,
    reply: Reply,
    confirmation: lapin::Result<Confirmation>,
    /// Since the message was handed to the channel.
    after: Duration,
}

async fn session(
    connection: &Connection,
    channel: &Channel,
    jobs: &mut mpsc::Receiver<Job>,
    open: &watch::Sender<bool>,
    shutdown: &CancellationToken,
) -> Result<(), SessionError> {
    let mut events = std::pin::pin!(connection.events_listener());
    let mut in_flight = FuturesUnordered::new();
    let mut returned = HashSet::new();
    let mut stopping = false;
    let last_confirms = async {
        shutdown.cancelled().await;
        tokio::time::sleep(LAST_CONFIRMS).await;
    };
    let mut last_confirms = std::pin::pin!(last_confirms);
    loop {
        if stopping && in_flight.is_empty() {
            return Ok(());
        }
        tokio::select! {
            () = shutdown.cancelled(), if !stopping => stopping = true,
            () = &mut last_confirms => return Ok(()),
            event = events.next() => match event {
                // Dropping what is in flight answers its callers with `Unconfirmed`.
                Some(Event::Error(error)) => return Err(error.into()),
                // What was sent before waits in the broker's socket; its callers give up when their time is over.
                Some(Event::ConnectionBlocked(reason)) => {
                    tracing::warn!(reason, "RabbitMQ takes no messages");
                    open.send_replace(false);
                }
                Some(Event::ConnectionUnblocked) => {
                    tracing::info!("RabbitMQ takes messages again");
                    open.send_replace(true);
                }
                _ => {}
            },
            // Neither may the backlog grow while the broker is slow: callers wait, then give up.
            // But while it is blocked they are told so at once.
            job = jobs.recv(), if !stopping && (in_flight.len() < MAX_IN_FLIGHT || !*open.borrow()) => match job {
                // Its caller has given up, and said so: sending it now would be a surprise.
                Some(job) if job.reply.is_closed() => {}
                // Blocked: sent now it would arrive when the alarm is over, long after its caller was told of a failure.
                Some(job) if !*open.borrow() => job.reply.send(Err(PublishError::NotConnected)),
                Some(job) => {
                    let mut publish = Box::pin(publish_one(channel.clone(), job));
                    // The first poll puts the frames on the channel: here, so that order is kept.
                    match futures_util::poll!(publish.as_mut()) {
                        Poll::Ready(settled) => settle(vec![settled], &mut returned)?,
                        Poll::Pending => in_flight.push(publish),
                    }
                }
                None => stopping = true,
            },
            Some(first) = in_flight.next(), if !in_flight.is_empty() => {
                let mut batch = vec![first];
                while let Some(Some(next)) = in_flight.next().now_or_never() {
                    batch.push(next);
                }
                settle(batch, &mut returned)?;
            }
        }
    }
}

async fn publish_one(channel: Channel, job: Job) -> Settled {
    let Job { message, reply } = job;
    let began = Instant::now();
    let options = BasicPublishOptions {
        mandatory: message.mandatory,
        immediate: false,
    };
    let published = channel
        .basic_publish(
            message.exchange.into(),
            ShortString::from(message.routing_key.as_str()),
            options,
            &message.body,
            message.properties(),
        )
        .await;
    let confirmation = match published {
        Ok(confirm) => confirm.await,
        Err(error) => Err(error),
    };
    Settled {
        message_id: message.message_id,
        reply,
        confirmation,
        after: began.elapsed(),
    }
}

/// Answers the callers of a batch.
///
/// lapin hands a returned message to whichever confirm it resolves next, which may be another message's.
/// A return is on the wire before its message's own ack, so by the time that ack is settled the return is in
/// the same batch or in an earlier one: `returned` keeps those until their message is settled.
fn settle(batch: Vec<Settled>, returned: &mut HashSet<String>) -> Result<(), SessionError> {
    let mut failure = None;
    let mut answers = Vec::with_capacity(batch.len());
    for settled in batch {
        let answer = match settled.confirmation {
            Ok(Confirmation::Ack(None)) => Ok(()),
            Ok(Confirmation::Ack(Some(message))) => {
                note_return(&message, returned);
                // Its own return may still be on its way to another confirm.
                Err(PublishError::Unconfirmed)
            }
            Ok(Confirmation::Nack(message)) => {
                if let Some(message) = message {
                    note_return(&message, returned);
                }
                Err(PublishError::Refused)
            }
            Ok(Confirmation::NotRequested) => Err(PublishError::Unconfirmed),
            Err(error) => {
                failure = Some(error);
                Err(PublishError::Unconfirmed)
            }
        };
        answers.push((settled.message_id, settled.reply, answer, settled.after));
    }
    for (message_id, reply, answer, after) in answers {
        let answer = if returned.remove(&message_id.to_string()) {
            Err(PublishError::Unroutable)
        } else {
            answer
        };
        if answer.is_ok() {
            reply.metrics.confirmed_after(after);
        }
        reply.send(answer);
    }
    failure.map_or(Ok(()), |error| Err(error.into()))
}

fn note_return(message: &BasicReturnMessage, returned: &mut HashSet<String>) {
    if let Some(id) = message.properties.message_id() {
        returned.insert(id.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(
        message_id: Uuid,
        confirmation: lapin::Result<Confirmation>,
    ) -> (Settled, oneshot::Receiver<Answer>) {
        let (caller, answer) = oneshot::channel();
        let reply = Reply {
            caller: Some(caller),
            metrics: Arc::new(PublisherMetrics::new("test")),
        };
        let settled = Settled {
            message_id,
            reply,
            confirmation,
            after: Duration::ZERO,
        };
        (settled, answer)
    }

    #[test]
    fn a_return_that_came_with_an_earlier_confirm_is_remembered_for_its_own_message() {
        let (first, second) = (Uuid::now_v7(), Uuid::now_v7());
        let mut returned = HashSet::new();
        // What an earlier batch learned from another message's confirm.
        returned.insert(second.to_string());
        let (one, mut first_answer) = settled(first, Ok(Confirmation::Ack(None)));
        assert!(settle(vec![one], &mut returned).is_ok());
        assert_eq!(first_answer.try_recv().unwrap(), Ok(()));
        let (two, mut second_answer) = settled(second, Ok(Confirmation::Ack(None)));
        assert!(settle(vec![two], &mut returned).is_ok());
        assert_eq!(
            second_answer.try_recv().unwrap(),
            Err(PublishError::Unroutable)
        );
        assert!(returned.is_empty());
    }

    #[test]
    fn each_message_is_counted_once_whatever_becomes_of_it() {
        let metrics = Arc::new(PublisherMetrics::new("counted"));
        let reply = || {
            let (caller, answer) = oneshot::channel();
            let reply = Reply {
                caller: Some(caller),
                metrics: Arc::clone(&metrics),
            };
            (reply, answer)
        };
        let (answered, _answer) = reply();
        answered.send(Err(PublishError::Unroutable));
        // Its caller has given up.
        reply().0.send(Ok(()));
        // Its session has ended.
        drop(reply());
        assert_eq!(metrics.counts(), [1, 1, 0, 1, 0]);
    }

    #[test]
    fn only_a_plain_ack_is_success() {
        for (confirmation, expected) in [
            (Confirmation::Ack(None), Ok(())),
            (Confirmation::Nack(None), Err(PublishError::Refused)),
            (Confirmation::NotRequested, Err(PublishError::Unconfirmed)),
        ] {
            let (one, mut answer) = settled(Uuid::now_v7(), Ok(confirmation));
            assert!(settle(vec![one], &mut HashSet::new()).is_ok());
            assert_eq!(answer.try_recv().unwrap(), expected);
        }
    }
}
