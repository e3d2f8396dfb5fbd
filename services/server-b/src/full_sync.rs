//! The full sync (`publish_all_users`, requirement 1.4): `user.updated` for every user on the fanout exchange,
//! between `sync.started` and `sync.completed`.
//!
//! Its state is a row, so any server B, and the command line, can ask for one and follow it. One runs at a
//! time; the process that runs it holds an advisory lock, so a row that says `running` while the lock is
//! free belongs to a process that died, or that lost its lock without noticing, and is run again. To replicas each
//! run is a full sync of its own: rows of one must not count as another's, whose read is later. The first has the id of
//! the sync, a later one an id of its own, and those before it are given up.

pub(crate) mod metrics;

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader, BufWriter, Seek, Write};
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use service_runtime::amqp::{Message, PublishError, Publisher};
use sqlx::postgres::PgQueryResult;
use sqlx::{Connection, PgConnection, PgPool};
use time::OffsetDateTime;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;
use uuid::Uuid;
use wire_contract::{
    CONFIG_EVENTS_EXCHANGE, ConfigEvent, DIGEST_VERSION, SyncAborted, SyncCompleted, SyncStarted,
    UserUpdated,
};

use crate::actor::{Actor, TransactionError, in_transaction};
use crate::audit;
use crate::keys::KeyRing;
use crate::lock;
use crate::replicas;
use crate::snapshot::read::{self, UsersRead};
use crate::wire_image::{KeyForm, WireImage};

/// How often a request is looked for.
const POLL: Duration = Duration::from_millis(250);
/// How long it is tried to tell of runs that failed: a connection that has fallen silent is given up after 20 s, and is made
/// anew within 25.
const TELL_WITHIN: Duration = Duration::from_secs(45);
/// Unconfirmed messages at a time.
const IN_FLIGHT: usize = 256;
/// Rows between two looks at the replicas, and two updates of the progress.
const CHECK_EVERY: u64 = 2_000;
/// Rows published beyond what the slowest live replica has taken in: a change waits behind these at most.
const AHEAD: u64 = 20_000;
/// How often the slowest replica is looked at while the sync waits for it.
const PACE_POLL: Duration = Duration::from_millis(100);
/// A replica that takes nothing in for so long no longer holds the sync up; it will take a snapshot.
const STUCK_AFTER: Duration = Duration::from_secs(30);

/// A full sync as its row has it.
#[derive(Debug, Clone, Serialize, ToSchema, sqlx::FromRow)]
pub struct SyncStatus {
    /// Names it.
    pub sync_id: Uuid,
    /// `requested`, `running`, `completed` or `failed`.
    pub status: String,
    /// Who asked for it.
    pub requested_by: String,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub requested_at: OffsetDateTime,
    /// When it began.
    #[serde(with = "time::serde::rfc3339::option")]
    pub started_at: Option<OffsetDateTime>,
    /// When it ended.
    #[serde(with = "time::serde::rfc3339::option")]
    pub finished_at: Option<OffsetDateTime>,
    /// Users to publish; known once they are read.
    pub users_total: Option<i64>,
    /// Users published.
    pub users_published: i64,
    /// Epoch of `sequence`.
    pub epoch: Option<i64>,
    /// Position of the stream that the sync has read.
    pub sequence: Option<i64>,
    /// Why it failed.
    pub error: Option<String>,
}

/// Asks for a full sync; whichever server B is free runs it.
pub async fn request(pool: &PgPool, requested_by: &Actor) -> Result<Uuid, TransactionError> {
    let sync_id = Uuid::now_v7();
    let by = requested_by.as_str().to_owned();
    in_transaction(pool, requested_by, move |tx| {
        Box::pin(async move {
            sqlx::query("INSERT INTO syncs (sync_id, requested_by) VALUES ($1, $2)")
                .bind(sync_id)
                .bind(by)
                .execute(tx)
                .await?;
            Ok(sync_id)
        })
    })
    .await
}

/// The state of a full sync.
pub async fn find(pool: &PgPool, sync_id: Uuid) -> sqlx::Result<Option<SyncStatus>> {
    sqlx::query_as(
        "SELECT sync_id, status, requested_by, requested_at, started_at, finished_at, users_total,
                users_published, epoch, sequence, error
         FROM syncs WHERE sync_id = $1",
    )
    .bind(sync_id)
    .fetch_optional(pool)
    .await
}

/// Runs the full syncs that are asked for.
#[derive(Debug)]
pub struct FullSyncs {
    /// Database.
    pub pool: PgPool,
    /// Publishes configuration events; the relay's, so that a process keeps one order.
    pub publisher: Publisher,
    /// Opens sealed keys.
    pub keys: KeyRing,
}

impl FullSyncs {
    /// Runs until `shutdown`; a sync that is cut is run again by the next server B.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                result = self.run_open() => if let Err(error) = result {
                    tracing::warn!(error = format!("{error:#}"), "full sync interrupted");
                },
            }
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }

    async fn run_open(&self) -> anyhow::Result<()> {
        let open: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM syncs WHERE status IN ('requested', 'running'))",
        )
        .fetch_one(&self.pool)
        .await
        .context("cannot look for full syncs")?;
        if !open || !self.publisher.is_open() {
            return Ok(());
        }
        // The lock lives as long as this connection, so also no longer than this process.
        let mut lock = PgConnection::connect_with(&self.pool.connect_options()).await?;
        let locked: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)")
            .bind(lock::FULL_SYNCS)
            .fetch_one(&mut lock)
            .await?;
        if !locked {
            return Ok(());
        }
        while let Some(attempt) = claim(&mut lock).await? {
            let sync_id = attempt.sync_id;
            tracing::info!(%sync_id, run_id = %attempt.run_id(), "full sync started");
            let began = Instant::now();
            match self.publish_all_users(&attempt).await {
                Ok(users) => {
                    self.finish(&attempt, None).await?;
                    metrics::completed(began.elapsed());
                    tracing::info!(%sync_id, users = users.count, "full sync completed");
                }
                Err(error) => {
                    let text = format!("{error:#}");
                    tracing::error!(%sync_id, error = text, "full sync failed");
                    // Not ours any more, or no database: the sync is run again, and gives this run up when that begins.
                    // Sooner, every replica would ask for a snapshot.
                    self.look(&attempt).await?;
                    // Replicas have most likely been told of the earlier ones, when this one began.
                    let runs = std::iter::once(attempt.run_id()).chain(attempt.earlier_runs());
                    if timeout(TELL_WITHIN, self.give_up(runs)).await.is_err() {
                        tracing::warn!(%sync_id, "replicas were not told that the full sync failed");
                    }
                    self.finish(&attempt, Some(&text)).await?;
                    metrics::failed();
                }
            }
        }
        Ok(())
    }

    /// # Errors
    /// As [`still_runs`].
    async fn finish(&self, attempt: &Attempt, error: Option<&str>) -> anyhow::Result<()> {
        let ended = sqlx::query(
            "UPDATE syncs SET status = CASE WHEN $2::text IS NULL THEN 'completed' ELSE 'failed' END,
                    error = $2, finished_at = now()
             WHERE sync_id = $1 AND started_at = $3",
        )
        .bind(attempt.sync_id)
        .bind(error)
        .bind(attempt.started_at)
        .execute(&self.pool)
        .await
        .context("cannot end a full sync")?;
        still_runs(&ended)
    }

    /// Publishes every user (requirement 1.4).
    async fn publish_all_users(&self, attempt: &Attempt) -> anyhow::Result<UsersRead> {
        let run_id = attempt.run_id();
        // Replicas compare themselves with the digest: it must be true before they do so at the end of the sync.
        while audit::audit(&self.pool).await? == audit::Finding::Overtaken {}
        // An audit takes long: a run that was taken over meanwhile must not begin.
        self.look(attempt).await?;
        // Right before the start: a replica whose source is given up asks for a snapshot, unless another begins at once.
        for earlier in attempt.earlier_runs() {
            self.publish(&aborted(earlier))
                .await
                .context("the end of an earlier run was not confirmed")?;
        }
        self.publish(&ConfigEvent::SyncStarted(SyncStarted { sync_id: run_id }))
            .await
            .context("the start of the full sync was not confirmed")?;
        let (spool, users) = self.spool().await?;
        self.note_read(attempt, &users).await?;
        self.publish_rows(attempt, &users, spool).await?;
        let comparable_from = users.comparable_from(&self.pool).await?;
        self.publish(&ConfigEvent::SyncCompleted(SyncCompleted {
            sync_id: run_id,
            position: users.position,
            comparable_from,
            count: users.count,
            digest: users.digest,
            digest_version: DIGEST_VERSION,
        }))
        .await
        .context("the end of the full sync was not confirmed")?;
        Ok(users)
    }

    /// Whether the run is still this server B's; locks nothing.
    async fn look(&self, attempt: &Attempt) -> anyhow::Result<()> {
        let found = sqlx::query("SELECT FROM syncs WHERE sync_id = $1 AND started_at = $2")
            .bind(attempt.sync_id)
            .bind(attempt.started_at)
            .execute(&self.pool)
            .await
            .context("cannot look at a full sync")?;
        still_runs(&found)
    }

    /// Replicas prove nothing while a sync is under way: they need not wait until it seems dead. The broker may be what it
    /// failed for.
    async fn give_up(&self, runs: impl Iterator<Item = Uuid>) {
        for run_id in runs {
            while let Err(error) = self.publish(&aborted(run_id)).await {
                tracing::info!(%error, %run_id, "telling replicas that the full sync failed");
                tokio::time::sleep(POLL).await;
            }
        }
    }

    async fn publish(&self, event: &ConfigEvent) -> Result<(), PublishError> {
        self.publisher.publish(to_everyone(event)).await
    }

    /// The users, one JSON line each, keys still sealed: nothing secret touches the disk in the clear.
    async fn spool(&self) -> anyhow::Result<(std::fs::File, UsersRead)> {
        let mut spool = BufWriter::new(tempfile::tempfile().context("no temporary file")?);
        let users = read::all_users(&self.pool, |_, user| {
            serde_json::to_writer(&mut spool, &user)?;
            spool.write_all(b"\n")?;
            Ok(())
        })
        .await?;
        let mut file = spool.into_inner().context("cannot write the spool")?;
        file.rewind().context("cannot rewind the spool")?;
        Ok((file, users))
    }

    async fn note_read(&self, attempt: &Attempt, users: &UsersRead) -> anyhow::Result<()> {
        let noted = sqlx::query(
            "UPDATE syncs SET users_total = $2, epoch = $3, sequence = $4, digest = $5
             WHERE sync_id = $1 AND started_at = $6",
        )
        .bind(attempt.sync_id)
        .bind(i64::try_from(users.count).unwrap_or(i64::MAX))
        .bind(users.position.epoch)
        .bind(users.position.sequence)
        .bind(users.digest.to_bytes().as_slice())
        .bind(attempt.started_at)
        .execute(&self.pool)
        .await
        .context("cannot note what the full sync has read")?;
        still_runs(&noted)
    }

    async fn publish_rows(
        &self,
        attempt: &Attempt,
        users: &UsersRead,
        spool: std::fs::File,
    ) -> anyhow::Result<()> {
        let mut in_flight = VecDeque::with_capacity(IN_FLIGHT);
        let mut pace = Pace::default();
        let mut published = 0;
        for line in BufReader::new(spool).lines() {
            let user: WireImage = serde_json::from_str(&line.context("cannot read the spool")?)
                .context("the spool is damaged")?;
            let event = ConfigEvent::UserUpdated(UserUpdated {
                user: user.record(KeyForm::Opened(&self.keys))?,
                epoch: users.position.epoch,
                sequence: None,
                sync_id: Some(attempt.run_id()),
                as_of: Some(users.position.sequence),
                occurred_at: OffsetDateTime::now_utc(),
            });
            let handed_over = self.publisher.hand_over(to_everyone(&event)).await;
            in_flight.push_back(handed_over.context("a user was not sent")?);
            if in_flight.len() >= IN_FLIGHT
                && let Some(confirm) = in_flight.pop_front()
            {
                confirm
                    .confirmed()
                    .await
                    .context("a user was not confirmed")?;
            }
            published += 1;
            metrics::USERS.inc();
            if published % CHECK_EVERY == 0 {
                self.note_progress(attempt, published).await?;
                self.keep_pace(attempt, published, &mut pace).await?;
            }
        }
        for confirm in in_flight {
            confirm
                .confirmed()
                .await
                .context("a user was not confirmed")?;
        }
        self.note_progress(attempt, published).await
    }

    /// # Errors
    /// As [`still_runs`].
    async fn note_progress(&self, attempt: &Attempt, published: u64) -> anyhow::Result<()> {
        let noted = sqlx::query(
            "UPDATE syncs SET users_published = $3 WHERE sync_id = $1 AND started_at = $2",
        )
        .bind(attempt.sync_id)
        .bind(attempt.started_at)
        .bind(i64::try_from(published).unwrap_or(i64::MAX))
        .execute(&self.pool)
        .await
        .context("cannot note the progress of a full sync")?;
        still_runs(&noted)
    }

    /// Waits while the slowest live replica is too far behind and still moves.
    async fn keep_pace(
        &self,
        attempt: &Attempt,
        published: u64,
        pace: &mut Pace,
    ) -> anyhow::Result<()> {
        loop {
            let replicas = replicas::in_sync(&self.pool, attempt.run_id()).await?;
            let slowest = pace.slowest(replicas, Instant::now());
            if slowest.is_none_or(|rows| rows + AHEAD >= published) {
                return Ok(());
            }
            tokio::time::sleep(PACE_POLL).await;
        }
    }
}

/// One run of a full sync. `started_at` tells it from a run by another server B.
#[derive(Debug, Clone, sqlx::FromRow)]
struct Attempt {
    sync_id: Uuid,
    later_runs: Vec<Uuid>,
    started_at: OffsetDateTime,
}

impl Attempt {
    /// By which replicas know the run.
    fn run_id(&self) -> Uuid {
        self.later_runs.last().copied().unwrap_or(self.sync_id)
    }

    /// All, not only the last: the one that took over from the others may have died before it could give them up.
    fn earlier_runs(&self) -> impl Iterator<Item = Uuid> {
        let all = std::iter::once(&self.sync_id).chain(&self.later_runs);
        all.take(self.later_runs.len()).copied()
    }
}

/// Begins a run. By the session that holds the lock: when it is gone, so is the lock, and what is running is another's.
async fn claim(lock: &mut PgConnection) -> anyhow::Result<Option<Attempt>> {
    sqlx::query_as(
        "UPDATE syncs SET status = 'running', started_at = clock_timestamp(), users_published = 0,
                later_runs = CASE WHEN status = 'running' THEN array_append(later_runs, $1) ELSE later_runs END
         WHERE sync_id = (SELECT sync_id FROM syncs WHERE status IN ('requested', 'running')
                          ORDER BY requested_at LIMIT 1)
           -- Once more: the run that holds it up may be ending it.
           AND status IN ('requested', 'running')
         RETURNING sync_id, later_runs, started_at",
    )
    .bind(Uuid::now_v7())
    .fetch_optional(lock)
    .await
    .context("cannot claim a full sync")
}

/// # Errors
/// When another server B runs the sync now: this one lost its lock without noticing.
fn still_runs(noted: &PgQueryResult) -> anyhow::Result<()> {
    anyhow::ensure!(
        noted.rows_affected() == 1,
        "another server B runs this full sync now"
    );
    Ok(())
}

fn aborted(run_id: Uuid) -> ConfigEvent {
    ConfigEvent::SyncAborted(SyncAborted { sync_id: run_id })
}

/// How far each replica was, and since when.
#[derive(Debug, Default)]
struct Pace {
    seen: HashMap<String, (u64, Instant)>,
}

impl Pace {
    /// Rows that the slowest has taken in. One that does not move for [`STUCK_AFTER`] no longer holds the sync up, for as
    /// long as it does not move; the others do.
    fn slowest(&mut self, replicas: Vec<(String, u64)>, now: Instant) -> Option<u64> {
        let before = std::mem::take(&mut self.seen);
        let mut slowest = None;
        for (instance, rows) in replicas {
            let was = before.get(&instance).filter(|(was, _)| *was == rows);
            let since = was.map_or(now, |(_, since)| *since);
            if now.duration_since(since) < STUCK_AFTER {
                slowest = Some(slowest.map_or(rows, |slowest: u64| slowest.min(rows)));
            } else {
                tracing::debug!(
                    instance,
                    rows,
                    "the full sync goes on without a replica that takes nothing in"
                );
            }
            self.seen.insert(instance, (rows, since));
        }
        slowest
    }
}

fn to_everyone(event: &ConfigEvent) -> Message {
    Message::to_fanout(CONFIG_EVENTS_EXCHANGE, event.event_type(), event.encode())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_takes_over_has_an_id_of_its_own_and_gives_up_all_before_it() {
        let id = Uuid::from_u128;
        let attempt = |later: &[u128]| Attempt {
            sync_id: id(1),
            later_runs: later.iter().copied().map(id).collect(),
            started_at: OffsetDateTime::UNIX_EPOCH,
        };
        let earlier = |later: &[u128]| attempt(later).earlier_runs().collect::<Vec<_>>();
        assert_eq!((attempt(&[]).run_id(), earlier(&[])), (id(1), vec![]));
        let third = [2, 3];
        assert_eq!(attempt(&third).run_id(), id(3));
        assert_eq!(earlier(&third), [id(1), id(2)]);
    }

    #[test]
    fn a_replica_that_is_stuck_holds_nobody_up_and_the_others_still_set_the_pace() {
        let mut pace = Pace::default();
        let replicas = |stuck, slow| vec![("stuck".to_owned(), stuck), ("slow".to_owned(), slow)];
        let began = Instant::now();
        assert_eq!(pace.slowest(replicas(5, 10), began), Some(5));
        let half = began + STUCK_AFTER / 2;
        assert_eq!(pace.slowest(replicas(5, 20), half), Some(5));
        let later = began + STUCK_AFTER;
        assert_eq!(pace.slowest(replicas(5, 20), later), Some(20));
        let moved = pace.slowest(replicas(6, 30), later);
        assert_eq!(moved, Some(6), "it moves again");
        assert_eq!(pace.slowest(vec![], later), None);
    }
}
