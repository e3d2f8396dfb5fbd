//! Own queue → [`UserCache`]: the one writer of the cache.
//!
//! On every connection: a fresh exclusive queue, bound, consumed, then a snapshot request that names it.
//! The session ends when the connection does; the supervisor makes the next one.

mod control;
mod lag;
pub mod metrics;
mod request;
mod status;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::BasicAckOptions;
use lapin::{Channel, Connection, Consumer};
use service_runtime::amqp::{Connector, Destination, MessageSpan, event_type, set_up, subscribe};
use service_runtime::readiness::Gate;
use time::OffsetDateTime;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use wire_contract::{
    CONFIG_EVENTS_EXCHANGE, ConfigEvent, Position, ReplicaPing, SnapshotCause, SnapshotCredit,
    decode_json, replica_queue, specs,
};

pub use control::Control;
pub use request::FIRST_RETRY;
pub use status::{LastSnapshot, SyncStatus, status};

use self::lag::Change;
use self::metrics::SnapshotOutcome;
use self::request::Request;
use crate::cache::{CacheState, Effect, SourceProgress, UserCache};

/// Without the name of the queue, which is another one on each connection.
const OWN_QUEUE: Destination<'_> = Destination {
    name: CONFIG_EVENTS_EXCHANGE,
    template: Some("config_events_exchange:server-a.{instance}.{connection}"),
};
/// Unacknowledged messages; bounds the memory of the client library.
const PREFETCH: u16 = 512;
/// How often what is due is looked after: requests, stalled snapshots, readiness.
const TICK: Duration = Duration::from_millis(100);
/// A snapshot or full sync that brings nothing for so long is given up: its end waits until a backlog of changes is numbered.
const SOURCE_STALLED: Duration = Duration::from_mins(5);
/// How often the sender of a silent snapshot is checked.
const CHECK_SENDER_EVERY: Duration = Duration::from_secs(2);
/// Bookmarks come once a second: after three that did not come server B is asked why.
const SILENT_AFTER: Duration = Duration::from_secs(3);
/// How often it is asked while the silence lasts.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// How often a ping goes through the own queue.
const PING_EVERY: Duration = Duration::from_secs(1);
/// Replicas tell where they stand this often.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// And this often while they take changes in: someone may be waiting for them.
const REPORT_CHANGES_EVERY: Duration = Duration::from_millis(200);

/// Keeps the cache in step with server B.
#[derive(Debug)]
pub struct CacheSync {
    /// Makes the connection that consumes.
    pub connector: Connector,
    /// Name of this replica.
    pub instance: String,
    /// The cache that it writes.
    pub cache: UserCache,
    /// Sends requests, credit and reports.
    pub control: Control,
    /// Open while the cache may be served.
    pub gate: Gate,
    /// What it shows.
    pub status: SyncStatus,
}

impl CacheSync {
    /// Runs until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let readiness = keep_gate(&self.cache, &self.gate);
        let connection_state = Arc::clone(&self.status.connection);
        let supervised =
            self.connector
                .supervise("cache sync", &connection_state, &shutdown, |connection| {
                    self.session(connection, &shutdown)
                });
        tokio::select! {
            () = supervised => Ok(()),
            () = readiness => Ok(()),
        }
    }

    async fn session(
        &self,
        connection: Connection,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<()> {
        let queue = replica_queue(&self.instance, Uuid::now_v7());
        let (exchange, own) = (specs::config_events(), specs::replica(queue.clone()));
        let subscribed = subscribe(&connection, &exchange, &own, PREFETCH);
        let (channel, mut consumer) = set_up(subscribed).await?;
        self.cache.subscribed();
        let mut session = Session {
            sync: self,
            queue,
            request: None,
            progress: HashMap::new(),
            reported: Instant::now(),
            reported_position: None,
            bookmark: Instant::now(),
            probed: None,
            began: Instant::now(),
            pinged: None,
        };
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ended = loop {
            tokio::select! {
                () = shutdown.cancelled() => break Ok(()),
                _ = tick.tick() => if let Err(error) = session.look_after() {
                    break Err(error);
                },
                delivery = consumer.next() => match delivery {
                    Some(Ok(delivery)) => {
                        if let Err(error) = session.take_batch(&channel, &mut consumer, delivery).await {
                            break Err(error);
                        }
                    }
                    Some(Err(error)) => break Err(error.into()),
                    None => break Err(anyhow::anyhow!("the broker cancelled the consumer")),
                },
            }
        };
        self.cache.broken();
        ended
    }
}

/// How far a source is.
struct Progress {
    rows: u64,
    /// Since when there are no more.
    since: Instant,
    /// When its sender was last checked.
    checked: Instant,
}

struct Session<'a> {
    sync: &'a CacheSync,
    queue: String,
    request: Option<Request>,
    progress: HashMap<Uuid, Progress>,
    reported: Instant,
    reported_position: Option<Position>,
    /// When the last bookmark came.
    bookmark: Instant,
    /// When server B was last asked why there are none.
    probed: Option<Instant>,
    /// The begin of the subscription, from which pings count their time.
    began: Instant,
    /// When the last ping was sent.
    pinged: Option<Instant>,
}

impl Session<'_> {
    /// Applies the delivery and whatever is there behind it, then acknowledges all at once.
    async fn take_batch(
        &mut self,
        channel: &Channel,
        consumer: &mut Consumer,
        first: Delivery,
    ) -> anyhow::Result<()> {
        let mut last_tag = first.delivery_tag;
        self.take(&first)?;
        for _ in 1..PREFETCH / 2 {
            let Some(Some(next)) = consumer.next().now_or_never() else {
                break;
            };
            let next = next?;
            last_tag = next.delivery_tag;
            self.take(&next)?;
        }
        channel
            .basic_ack(last_tag, BasicAckOptions { multiple: true })
            .await
            .context("cannot acknowledge")
    }

    /// One message. A malformed one is counted and left: its number is missing now, so it shows as a
    /// gap, and the snapshot that follows repairs it.
    ///
    /// # Errors
    /// When server B says that bookmarks are being sent while none comes: the binding is lost.
    fn take(&mut self, delivery: &Delivery) -> anyhow::Result<()> {
        let event_type = event_type(delivery);
        if event_type == ReplicaPing::TYPE {
            self.take_ping(delivery);
            return Ok(());
        }
        let event = match ConfigEvent::decode(event_type, &delivery.data) {
            Ok(Some(event)) => event,
            Ok(None) => {
                metrics::ignored("unknown_event");
                tracing::debug!(event_type, "event of a later version ignored");
                return Ok(());
            }
            Err(error) => {
                metrics::ignored("malformed");
                tracing::warn!(%error, "malformed configuration event ignored");
                return Ok(());
            }
        };
        // No span around the batch: tens of thousands a second are applied, and one by one.
        let _span = MessageSpan::process(OWN_QUEUE, delivery, None);
        let change = Change::of(&event, delivery);
        match &event {
            ConfigEvent::Bookmark(_) => self.bookmark = Instant::now(),
            // What is asked for from now on this snapshot cannot bring.
            ConfigEvent::SnapshotStarted(_) => {
                if let Some(request) = &mut self.request {
                    request.begun();
                }
            }
            ConfigEvent::ProbeAnswer(answer) => return self.judge_silence(answer.bookmark_age_ms),
            _ => {}
        }
        let chunk_of = match &event {
            ConfigEvent::SnapshotChunk(chunk) => Some(chunk.snapshot_id),
            _ => None,
        };
        let effect = self.sync.cache.apply(event);
        metrics::applied(event_type, effect);
        // Until the first snapshot is complete the replica serves nobody: changes that wait behind it are late for none.
        if let Some(change) = change
            && self.sync.cache.read(CacheState::is_complete)
        {
            change.taken(effect);
        }
        if let Some(snapshot_id) = chunk_of
            && let Some((queue, credit)) = self.sync.cache.take_credit(snapshot_id, &self.queue)
        {
            self.sync.control.credit(queue, &credit);
        }
        self.note(event_type, effect);
        Ok(())
    }

    fn take_ping(&self, delivery: &Delivery) {
        match decode_json::<ReplicaPing>(ReplicaPing::TYPE, &delivery.data) {
            Ok(ping) => {
                let sent = self.began + Duration::from_micros(ping.sent_us);
                // Only this process knows its clock, but others can write to its queue.
                self.sync.cache.up_to_date(sent.min(Instant::now()));
            }
            Err(error) => {
                metrics::ignored("malformed");
                tracing::warn!(%error, "malformed ping ignored");
            }
        }
    }

    /// Server B lives. If bookmarks are being sent all the same, this queue is no longer bound.
    fn judge_silence(&self, bookmark_age_ms: Option<u64>) -> anyhow::Result<()> {
        let silence = self.bookmark.elapsed();
        let sent = bookmark_age_ms.map(Duration::from_millis);
        anyhow::ensure!(
            silence < SILENT_AFTER || sent.is_none_or(|age| age + SILENT_AFTER > silence),
            "bookmarks are sent but none has come for {} s: the binding is lost",
            silence.as_secs()
        );
        Ok(())
    }

    /// While the stream is silent: does server B live?
    fn ask_why_silent(&mut self) {
        let due = self.probed.is_none_or(|at| at.elapsed() >= ASK_EVERY);
        if self.bookmark.elapsed() >= SILENT_AFTER && due {
            self.probed = Some(Instant::now());
            self.sync.control.probe(&self.queue);
        }
    }

    /// Pings, and looks whether pings come back.
    ///
    /// # Errors
    /// When the broker has put one into the own queue and it has not come out for so long that the cache is closed. While
    /// none can be sent, as during an alarm of the broker, the subscription may be whole, and is kept.
    fn check_link(&mut self) -> anyhow::Result<()> {
        let cache = &self.sync.cache;
        let (limit, came_back) = (cache.limits().fail_closed_after, cache.up_to_date_at());
        let due = self.sync.control.due_back(cache);
        let missing = due.is_some_and(|sent| sent.elapsed() > limit / 2);
        anyhow::ensure!(
            !missing || came_back.elapsed() <= limit,
            "nothing has come over the link for {} s",
            came_back.elapsed().as_secs()
        );
        if self.pinged.is_none_or(|at| at.elapsed() >= PING_EVERY) {
            self.pinged = Some(Instant::now());
            self.sync.control.ping(&self.queue, self.began, cache);
        }
        Ok(())
    }

    fn note(&mut self, event_type: &str, effect: Effect) {
        match effect {
            Effect::SourceCompleted => self.source_completed(event_type),
            // Only a proof ends the back-off: a snapshot that leaves a difference must not be asked for in a loop.
            Effect::Proven => self.request = None,
            Effect::SourceBroken => {
                self.snapshot_failed(event_type == "snapshot.completed");
                tracing::warn!(event_type, "rows do not add up: nothing was swept");
            }
            Effect::SourceAborted => {
                self.snapshot_failed(event_type == "snapshot.aborted");
                tracing::warn!(event_type, "source given up: server B did so");
            }
            Effect::Gap => {
                let seen = self.sync.cache.read(CacheState::seen);
                tracing::warn!(?seen, "gap in the stream: a snapshot is needed");
            }
            Effect::Mismatch => {
                tracing::error!(
                    "the cache's digest differs from the database's: a snapshot is needed"
                );
            }
            Effect::Applied
            | Effect::Stale
            | Effect::Duplicate
            | Effect::UnknownSource
            | Effect::OldEpoch
            | Effect::NotComparable => {}
        }
    }

    fn source_completed(&mut self, event_type: &str) {
        let users = self.sync.cache.read(CacheState::len);
        let applied = self.sync.cache.applied();
        if applied.is_some()
            && let Some(request) = &mut self.request
            && let Some((cause, duration)) = request.answered()
        {
            metrics::snapshot(cause, SnapshotOutcome::Completed(duration));
            *self.sync.status.last_snapshot.write() = Some(LastSnapshot {
                cause,
                duration,
                users,
                at: OffsetDateTime::now_utc(),
            });
        }
        tracing::info!(event_type, users, ?applied, "all users received");
        update_gate(&self.sync.cache, &self.sync.gate);
        self.report();
    }

    fn snapshot_failed(&self, was_snapshot: bool) {
        if was_snapshot && let Some(request) = &self.request {
            metrics::snapshot(request.cause(), SnapshotOutcome::Failed);
        }
    }

    /// What is due without a message: a request, the end of a stalled snapshot, a report.
    ///
    /// # Errors
    /// See [`Self::check_link`].
    fn look_after(&mut self) -> anyhow::Result<()> {
        self.check_link()?;
        self.ask_why_silent();
        self.give_up_stalled();
        if let Some(cause) = self.sync.cache.read(CacheState::wanted) {
            self.request(cause);
        }
        let changed = self.sync.cache.applied() != self.reported_position;
        let every = if changed {
            REPORT_CHANGES_EVERY
        } else {
            REPORT_EVERY
        };
        if self.reported.elapsed() >= every {
            self.report();
        }
        Ok(())
    }

    fn request(&mut self, cause: SnapshotCause) {
        if !self.sync.control.is_open() {
            return;
        }
        let Some(id) = self
            .request
            .get_or_insert_with(|| Request::new(cause))
            .due(cause)
        else {
            return;
        };
        tracing::info!(?cause, queue = self.queue, "asking for a snapshot");
        self.sync.control.request_snapshot(id, &self.queue, cause);
    }

    /// A source whose sender is gone, or that brings nothing for too long, is given up. Between its start and its first
    /// row lies the read of the whole table, so silence alone tells little: the sender's credit queue tells more.
    fn give_up_stalled(&mut self) {
        let now = Instant::now();
        let sources: Vec<SourceProgress> =
            self.sync.cache.read(|state| state.under_way().collect());
        self.progress
            .retain(|id, _| sources.iter().any(|source| source.id == *id));
        self.sync
            .control
            .retain_dead(|id| sources.iter().any(|source| source.id == id));
        for source in sources {
            let progress = self.progress.entry(source.id).or_insert(Progress {
                rows: source.rows,
                since: now,
                checked: now,
            });
            if progress.rows != source.rows {
                progress.rows = source.rows;
                progress.since = now;
            }
            if self.sync.control.is_dead(source.id) || progress.since.elapsed() > SOURCE_STALLED {
                tracing::warn!(id = %source.id, rows = source.rows, "source given up: its sender is silent");
                metrics::source_given_up(source.snapshot);
                self.snapshot_failed(source.snapshot);
                self.sync.cache.abandon(source.id);
            } else if source.snapshot && progress.checked.elapsed() > CHECK_SENDER_EVERY {
                progress.checked = now;
                if let Some((queue, chunks)) =
                    self.sync.cache.read(|state| state.credit_of(source.id))
                {
                    let credit = SnapshotCredit {
                        snapshot_id: source.id,
                        queue: self.queue.clone(),
                        chunks,
                    };
                    self.sync.control.credit(queue, &credit);
                }
            }
        }
    }

    fn report(&mut self) {
        self.reported = Instant::now();
        self.reported_position = self.sync.cache.applied();
        self.sync
            .control
            .report(&self.queue, &self.sync.cache, self.sync.gate_is_open());
    }
}

impl CacheSync {
    fn gate_is_open(&self) -> bool {
        self.cache.admission().is_ok()
    }
}

/// Opens and closes the readiness gate as time passes; events do so at once.
async fn keep_gate(cache: &UserCache, gate: &Gate) {
    let mut tick = interval(TICK);
    loop {
        tick.tick().await;
        update_gate(cache, gate);
    }
}

fn update_gate(cache: &UserCache, gate: &Gate) {
    match cache.admission() {
        Ok(_) => gate.open(),
        Err(not_serving) => gate.close(&not_serving.reason),
    }
}
