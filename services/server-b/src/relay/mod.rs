//! outbox → `config_events_exchange`.
//!
//! One leader at a time (advisory lock); a leader that lost its lock without noticing is fenced by its
//! term, which the numbering transaction checks. Numbers are given after commit, in one transaction that
//! locks the relay's row, so they are contiguous. Rows are deleted when the broker has confirmed them and
//! all before them; after a crash the same numbers are published again, and replicas drop them.

pub(crate) mod metrics;
pub mod numbering;
mod publish;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use parking_lot::RwLock;
use serde::Serialize;
use service_runtime::amqp::{Connector, Publisher, PublisherTask};
use sqlx::PgPool;
use sqlx::postgres::PgListener;
use time::OffsetDateTime;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wire_contract::specs;

use crate::keys::KeyRing;
use crate::lock::{self, Lock};
use crate::replicas;
use numbering::{Batch, Fenced, RelayState};
pub use publish::{bookmark_of, confirmed_prefix};

/// Rows numbered and published at a time.
const BATCH: i64 = 2_000;
/// How often a relay that is not asleep looks for rows.
const POLL: Duration = Duration::from_millis(2);
/// Idle for so long, it goes to sleep: the trigger notifies then.
const SLEEP_AFTER: Duration = Duration::from_millis(200);
/// How often a sleeping relay looks all the same: a notification can be missed.
const SLEEPING_POLL: Duration = Duration::from_millis(100);
/// A batch takes milliseconds, coalescing seconds. Longer than a confirm may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);
const NO_ANSWER: &str = "database or broker do not answer";
/// How often replicas are told what the users amount to.
const BOOKMARK_EVERY: Duration = Duration::from_secs(1);
/// How often a relay without a broker shortens its backlog; more seldom when that takes long.
const COALESCE_EVERY: Duration = Duration::from_millis(500);
/// Pause after shortening the backlog, in multiples of the time that it took: between two vacuums of the outbox that grows to
/// several times what it is at first, and the backlog grows in the pause.
const COALESCE_PAUSE: u32 = 3;
/// Pause after an error.
const RETRY: Duration = Duration::from_millis(500);
/// So long a leader that has no broker keeps the lead in any case, and then leaves it for a while to a server B that has one.
const LEAD_WITHOUT_BROKER: Duration = Duration::from_secs(5);
const STAND_BACK: Duration = Duration::from_secs(2);
/// Channel on which the trigger wakes a sleeping relay.
const WAKE_CHANNEL: &str = "identity_sync_outbox";

/// What the relay shows in `/status`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RelayStatus {
    /// Whether this process leads.
    pub leader: bool,
    /// Its term.
    pub term: i64,
    /// Epoch of the last number published.
    pub epoch: i64,
    /// Last number published and confirmed.
    pub sequence: i64,
    /// Why it stopped leading last.
    pub last_error: Option<String>,
}

/// The relay.
#[derive(Debug)]
pub struct Relay {
    /// Database.
    pub pool: PgPool,
    /// Publishes configuration events.
    pub publisher: Publisher,
    /// Opens sealed keys.
    pub keys: KeyRing,
    /// What it shows.
    pub status: Arc<RwLock<RelayStatus>>,
}

/// The publisher of `config_events_exchange`: relay and full sync share it, so that what one process
/// publishes keeps its order.
#[must_use]
pub fn publisher(connector: Connector, shutdown: CancellationToken) -> (Publisher, PublisherTask) {
    Publisher::to_exchange(connector, "config events", specs::config_events(), shutdown)
}

/// How long the relay may wait before it looks again.
enum Next {
    AtOnce,
    Idle,
}

impl Relay {
    /// Leads whenever it can, until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        while !shutdown.is_cancelled() {
            let ended = tokio::select! {
                () = shutdown.cancelled() => break,
                ended = self.campaign() => ended,
            };
            let pause = if let Err(error) = ended {
                let text = format!("{error:#}");
                tracing::warn!(error = text, "relay interrupted");
                self.status.write().last_error = Some(text);
                RETRY
            } else {
                tracing::info!("no broker: the lead is left to another server B, which has one");
                STAND_BACK
            };
            self.status.write().leader = false;
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        Ok(())
    }

    /// Waits for the lead, and leads; returns when it no longer does: without an error, if for lack of a broker.
    async fn campaign(&self) -> anyhow::Result<()> {
        let leadership = Lock::acquire(&self.pool, lock::RELAY).await?;
        tokio::time::timeout(STEP_TIMEOUT, self.begin_term(leadership))
            .await
            .context(NO_ANSWER)??
            .lead()
            .await
    }

    async fn begin_term(&self, leadership: Lock) -> anyhow::Result<Term<'_>> {
        let state = numbering::take_term(&self.pool).await?;
        let mut listener = PgListener::connect_with(&self.pool).await?;
        listener.listen(WAKE_CHANNEL).await?;
        tracing::info!(
            term = state.term,
            sequence = state.sequence,
            "leading the relay"
        );
        *self.status.write() = RelayStatus {
            leader: true,
            term: state.term,
            epoch: state.epoch,
            sequence: state.sequence,
            last_error: None,
        };
        Ok(Term {
            relay: self,
            leadership,
            listener,
            published: None,
            next: None,
            number: state.term,
            last_work: Instant::now(),
            last_bookmark: None,
            next_coalesce: Instant::now(),
            asleep: false,
            no_broker: None,
            in_backlog: true,
            caught_up: None,
        })
    }
}

/// One term as leader.
struct Term<'a> {
    relay: &'a Relay,
    leadership: Lock,
    listener: PgListener,
    /// What has been published and confirmed; `None` while something may not be: rows of a former term, or a batch.
    published: Option<RelayState>,
    /// What has its numbers already, and is to be published next.
    next: Option<Batch>,
    number: i64,
    last_work: Instant,
    last_bookmark: Option<Instant>,
    next_coalesce: Instant,
    asleep: bool,
    /// Since when there is none.
    no_broker: Option<Instant>,
    /// The last batch that was numbered was full, or may have been in the term before: coalescing may have put a key's new
    /// holder before the change by which its old one lost it, so digests agree only at the end of the backlog.
    in_backlog: bool,
    /// When, by the database's clock, all that was committed had a number; unknown at first.
    caught_up: Option<OffsetDateTime>,
}

impl Term<'_> {
    async fn lead(&mut self) -> anyhow::Result<()> {
        // The term before may have ended because the broker takes nothing, though it is connected.
        self.leadership.check().await?;
        tokio::time::timeout(STEP_TIMEOUT, self.coalesce())
            .await
            .context(NO_ANSWER)??;
        loop {
            self.leadership.check().await?;
            let since = self.no_broker.map(|since| since.elapsed());
            if since.is_some_and(|since| since > LEAD_WITHOUT_BROKER)
                && replicas::is_heard(&self.relay.pool).await?
            {
                return Ok(());
            }
            tokio::time::timeout(STEP_TIMEOUT, self.step())
                .await
                .context(NO_ANSWER)??;
        }
    }

    async fn step(&mut self) -> anyhow::Result<()> {
        if !self.relay.publisher.is_open() {
            return self.wait_for_broker().await;
        }
        self.no_broker = None;
        let next = if self.published.is_none() {
            self.replay().await?
        } else {
            // Boxed: it is large, and part of everything around it.
            Box::pin(self.relay_batch()).await?
        };
        self.bookmark().await?;
        match next {
            Next::AtOnce => Ok(()),
            Next::Idle => self.rest().await,
        }
    }

    /// Publishes what was numbered but not known to be confirmed.
    async fn replay(&mut self) -> anyhow::Result<Next> {
        let rows = numbering::numbered(&self.relay.pool, BATCH).await?;
        if rows.is_empty() {
            self.published = Some(numbering::state(&self.relay.pool).await?);
            return Ok(Next::AtOnce);
        }
        metrics::republished(rows.len());
        publish::publish(self.relay, &rows).await?;
        Ok(Next::AtOnce)
    }

    async fn relay_batch(&mut self) -> anyhow::Result<Next> {
        let batch = match self.next.take() {
            Some(batch) => batch,
            None => match self.number().await? {
                Some(batch) => batch,
                None => return Ok(Next::Idle),
            },
        };
        self.asleep = false;
        self.last_work = Instant::now();
        self.published = None;
        let published = publish::publish(self.relay, &batch.rows);
        // In a backlog the next rows get their numbers while the broker confirms these; but for a bookmark, which must find
        // all that has a number published.
        if self.in_backlog && !self.is_bookmark_due() {
            let (published, next) = tokio::join!(published, self.number());
            // First whether another leads: then it does not matter what was confirmed.
            self.next = next?;
            published?;
        } else {
            published.await?;
        }
        let mut status = self.relay.status.write();
        status.epoch = batch.state.epoch;
        status.sequence = batch.state.sequence;
        self.published = Some(batch.state);
        Ok(Next::AtOnce)
    }

    /// Gives numbers to what waits, if anything does.
    async fn number(&mut self) -> anyhow::Result<Option<Batch>> {
        let look = numbering::number(&self.relay.pool, self.number, BATCH).await?;
        let (caught_up, left_nothing) = (self.caught_up, look.left_nothing(BATCH));
        if left_nothing {
            self.caught_up = self.caught_up.max(Some(look.at));
        }
        self.in_backlog = !left_nothing;
        let mut batch = look.batch;
        if let (Some(batch), Some(caught_up)) = (&mut batch, caught_up) {
            batch.committed_after(caught_up);
        }
        Ok(batch)
    }

    fn is_bookmark_due(&self) -> bool {
        self.last_bookmark
            .is_none_or(|at| at.elapsed() >= BOOKMARK_EVERY)
    }

    /// Tells replicas what the users amount to, once a second; a lost bookmark is followed by another.
    async fn bookmark(&mut self) -> anyhow::Result<()> {
        // What has its numbers ahead is published first: no bookmark could be told in between, and its turn would be lost.
        if !self.is_bookmark_due() || self.next.is_some() {
            return Ok(());
        }
        let Some(published) = &mut self.published else {
            return Ok(());
        };
        self.last_bookmark = Some(Instant::now());
        // An audit may have corrected the digest, and a restore begun a new epoch, since the last number.
        let state = numbering::state(&self.relay.pool).await?;
        anyhow::ensure!(state.term == self.number, Fenced { term: state.term });
        numbering::check_history(&self.relay.pool).await?;
        if state.sequence == published.sequence {
            *published = state;
            publish::bookmark(self.relay, published, self.in_backlog).await?;
        }
        Ok(())
    }

    /// Waits for rows: by polling while there was work lately, then by notification.
    async fn rest(&mut self) -> anyhow::Result<()> {
        if self.last_work.elapsed() < SLEEP_AFTER {
            tokio::time::sleep(POLL).await;
            return Ok(());
        }
        if !self.asleep {
            // Look once more after this is visible: a row that came in between was not notified.
            numbering::set_sleeping(&self.relay.pool, self.number, true).await?;
            self.asleep = true;
            return Ok(());
        }
        tokio::select! {
            woken = self.listener.recv() => {
                woken.context("the notification connection is lost")?;
            }
            () = tokio::time::sleep(SLEEPING_POLL) => {}
        }
        Ok(())
    }

    /// Without a broker the backlog must not grow with every change, only with every changed user.
    async fn wait_for_broker(&mut self) -> anyhow::Result<()> {
        self.published = None;
        self.next = None;
        self.no_broker.get_or_insert_with(Instant::now);
        if self.asleep {
            // Nobody will listen for a while: writers need not notify.
            numbering::set_sleeping(&self.relay.pool, self.number, false).await?;
            self.asleep = false;
        }
        if Instant::now() >= self.next_coalesce {
            self.coalesce().await?;
        }
        tokio::time::sleep(SLEEPING_POLL).await;
        Ok(())
    }

    async fn coalesce(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        let removed = numbering::coalesce(&self.relay.pool, self.number).await?;
        if removed > 0 {
            tracing::debug!(removed, "superseded changes removed from the outbox");
        }
        self.next_coalesce = Instant::now() + COALESCE_EVERY.max(began.elapsed() * COALESCE_PAUSE);
        Ok(())
    }
}
