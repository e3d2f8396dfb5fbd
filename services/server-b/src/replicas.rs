//! `config_replica_reports` → the `replicas` table: where each replica stands.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::BasicAckOptions;
use lapin::{Channel, Connection, Consumer};
use parking_lot::RwLock;
use serde::Serialize;
use service_runtime::amqp::{
    ConnectionState, Connector, Message, Publisher, consume, declare_queue, event_type, set_up,
};
use sqlx::PgPool;
use time::OffsetDateTime;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;
use uuid::Uuid;
use wire_contract::{CONFIG_REPLICA_REPORTS, Position, ReplicaReport, decode_json, specs};

use crate::relay::numbering::{self, NumberedBy};

/// Reports in hand at a time.
const PREFETCH: u16 = 500;
/// Beyond a replica's lease: clocks drift, reports travel, and a link that brings none is found dead only by its heartbeats.
/// Until then [`wait`] must not take a replica that is not heard for one that is gone.
const LEASE_MARGIN_MS: i64 = 15_000;
/// How often a process tries whether it hears the replicas.
const PING_EVERY: Duration = Duration::from_secs(1);
/// Nobody noted it for so long: whether there are replicas that serve is not known.
const DEAF_AFTER_SECS: f64 = 5.0;
/// Replicas report each second: after so long without a break each has been heard that is there.
const HEARD_ALL_AFTER_SECS: f64 = 3.0;
/// What server B sends into the queue of the reports: when it comes out, so does what replicas send.
const INTAKE_PING: &str = "intake.ping";
/// A ping that nobody took by then tells nothing.
const PING_EXPIRES_MS: u64 = 5_000;
/// How often the replicas are looked at while someone waits for them.
const WAIT_POLL: Duration = Duration::from_millis(50);
/// Pause after the database refused a batch.
const RETRY: Duration = Duration::from_millis(500);

/// Stores the reports until `shutdown`. `publisher` sends pings into their queue.
pub async fn run(
    connector: Connector,
    publisher: Publisher,
    pool: PgPool,
    state: Arc<RwLock<ConnectionState>>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    connector
        .supervise("replica reports", &state, &shutdown, |connection| {
            session(connection, &publisher, &pool, &shutdown)
        })
        .await;
    Ok(())
}

async fn session(
    connection: Connection,
    publisher: &Publisher,
    pool: &PgPool,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let (channel, mut reports) = set_up(subscribe(&connection)).await?;
    let mut ping = interval(PING_EVERY);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let first = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            _ = ping.tick() => {
                tokio::spawn(ping_intake(publisher.clone()));
                continue;
            }
            delivery = reports.next() => delivery.context("consumer cancelled")??,
        };
        let mut last_tag = first.delivery_tag;
        let mut batch = Batch::default();
        batch.take(&first);
        while let Some(Some(next)) = reports.next().now_or_never() {
            let next = next?;
            last_tag = next.delivery_tag;
            batch.take(&next);
        }
        let reports: Vec<ReplicaReport> = batch.newest.into_values().collect();
        let stored = async {
            store(pool, &reports).await?;
            if batch.pinged {
                // After the reports that came before it.
                note_heard(pool).await?;
            }
            notice_restore(pool, &reports).await
        };
        if let Err(error) = stored.await {
            // Not worth keeping: each replica sends another within a second.
            tracing::warn!(error = format!("{error:#}"), "replica reports not stored");
            tokio::time::sleep(RETRY).await;
        }
        channel
            .basic_ack(last_tag, BasicAckOptions { multiple: true })
            .await?;
    }
}

async fn subscribe(connection: &Connection) -> anyhow::Result<(Channel, Consumer)> {
    let channel = connection.create_channel().await?;
    declare_queue(&channel, &specs::replica_reports()).await?;
    let reports = consume(
        &channel,
        CONFIG_REPLICA_REPORTS,
        "replica-reports",
        PREFETCH,
    )
    .await?;
    Ok((channel, reports))
}

#[derive(Default)]
struct Batch {
    /// The newest report of each replica is enough.
    newest: HashMap<String, ReplicaReport>,
    pinged: bool,
}

impl Batch {
    fn take(&mut self, delivery: &Delivery) {
        if event_type(delivery) == INTAKE_PING {
            self.pinged = true;
            return;
        }
        match decode_json::<ReplicaReport>(event_type(delivery), &delivery.data) {
            Ok(report) => {
                self.newest.insert(report.instance.clone(), report);
            }
            Err(error) => tracing::warn!(%error, "malformed replica report ignored"),
        }
    }
}

/// Lost, it is followed by another.
async fn ping_intake(publisher: Publisher) {
    let mut message = Message::to_queue(CONFIG_REPLICA_REPORTS, INTAKE_PING, b"{}".to_vec());
    message.persistent = false;
    message.expiration_ms = Some(PING_EXPIRES_MS);
    if let Err(error) = publisher.publish(message).await {
        tracing::debug!(%error, "a ping of the replica reports was not confirmed");
    }
}

async fn store(pool: &PgPool, reports: &[ReplicaReport]) -> anyhow::Result<()> {
    for report in reports {
        sqlx::query(
            "INSERT INTO replicas (instance, queue, report_number, ready, applied_epoch, applied_sequence, proven_epoch,
                 proven_sequence, proven_since, users, syncing_id, syncing_rows, last_sync_id, fail_closed_after_ms,
                 reported_at)
             VALUES ($1, $2, $14, $3, $4, $5, $6, $7, CASE WHEN $7::bigint IS NOT NULL THEN now() END,
                     $8, $9, $10, $11, $12, $13)
             ON CONFLICT (instance) DO UPDATE SET
                 queue = excluded.queue, report_number = excluded.report_number, ready = excluded.ready,
                 applied_epoch = excluded.applied_epoch, applied_sequence = excluded.applied_sequence,
                 proven_epoch = excluded.proven_epoch, proven_sequence = excluded.proven_sequence,
                 proven_since = CASE WHEN excluded.proven_sequence IS NULL THEN NULL
                                     WHEN replicas.received_at < now() - interval '5 s' THEN now()
                                     ELSE coalesce(replicas.proven_since, now()) END,
                 users = excluded.users, syncing_id = excluded.syncing_id,
                 syncing_rows = excluded.syncing_rows, last_sync_id = excluded.last_sync_id,
                 fail_closed_after_ms = excluded.fail_closed_after_ms,
                 reported_at = excluded.reported_at, received_at = now()
             WHERE replicas.queue <> excluded.queue OR replicas.report_number < excluded.report_number",
        )
        .bind(&report.instance)
        .bind(&report.queue)
        .bind(report.ready)
        .bind(report.applied.epoch)
        .bind(report.applied.sequence)
        .bind(report.proven.map(|position| position.epoch))
        .bind(report.proven.map(|position| position.sequence))
        .bind(clamp(report.users))
        .bind(report.syncing.map(|progress| progress.sync_id))
        .bind(report.syncing.map(|progress| clamp(progress.rows)))
        .bind(report.last_sync_id)
        .bind(clamp(report.fail_closed_after_ms))
        .bind(report.reported_at)
        .bind(clamp(report.number))
        .execute(pool)
        .await
        .with_context(|| format!("cannot store the report of {}", report.instance))?;
    }
    Ok(())
}

/// Whoever reports is heard, since when without a break.
async fn note_heard(pool: &PgPool) -> anyhow::Result<()> {
    sqlx::query(
        "UPDATE replica_intake SET
             heard_at = now(),
             heard_since = CASE WHEN heard_at < now() - make_interval(secs => $1) THEN now() ELSE heard_since END",
    )
    .bind(DEAF_AFTER_SECS)
    .execute(pool)
    .await
    .context("cannot note that replicas are heard")?;
    Ok(())
}

/// Whether some server B hears all replicas that there are.
pub async fn is_heard(pool: &PgPool) -> anyhow::Result<bool> {
    let heard = sqlx::query_scalar(
        "SELECT heard_at > now() - make_interval(secs => $1) AND heard_since < now() - make_interval(secs => $2)
         FROM replica_intake",
    )
    .bind(DEAF_AFTER_SECS)
    .bind(HEARD_ALL_AFTER_SECS)
    .fetch_one(pool)
    .await;
    heard.context("cannot tell whether replicas are heard")
}

/// A report from the future of this database is the proof that an older state was restored.
async fn notice_restore(pool: &PgPool, reports: &[ReplicaReport]) -> anyhow::Result<()> {
    let Some(ahead) = reports
        .iter()
        .map(|report| report.seen.max(report.applied))
        .max()
    else {
        return Ok(());
    };
    let epoch = numbering::leave_epoch(pool, ahead)
        .await
        .context("cannot compare the replicas' positions")?;
    if let Some(epoch) = epoch {
        tracing::warn!(
            ?ahead,
            epoch,
            "a replica is ahead of the database: a new epoch begins"
        );
    }
    Ok(())
}

fn clamp(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Rows of a run of a full sync that each live replica has taken in. One that began after `sync.started` does not take part.
pub async fn in_sync(pool: &PgPool, run_id: Uuid) -> anyhow::Result<Vec<(String, u64)>> {
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "SELECT instance, syncing_rows FROM replicas
         WHERE syncing_id = $1
           AND received_at > now() - make_interval(secs => (fail_closed_after_ms + $2) / 1000.0)",
    )
    .bind(run_id)
    .bind(LEASE_MARGIN_MS)
    .fetch_all(pool)
    .await
    .context("cannot read how far the replicas are")?;
    let rows = rows.into_iter();
    Ok(rows
        .map(|(name, rows)| (name, rows.unsigned_abs()))
        .collect())
}

/// A live replica as it last reported.
#[derive(Debug, Clone, Serialize, ToSchema, sqlx::FromRow)]
pub struct LiveReplica {
    /// Its name.
    pub instance: String,
    /// Whether it serves.
    pub ready: bool,
    /// Epoch of `applied_sequence`.
    pub applied_epoch: i64,
    /// Everything up to here is applied.
    pub applied_sequence: i64,
    /// Epoch of `proven_sequence`.
    pub proven_epoch: Option<i64>,
    /// The last position at which its cache equalled the database; absent when that is too long ago.
    pub proven_sequence: Option<i64>,
    /// Since when it has been proven without a break.
    #[serde(with = "time::serde::rfc3339::option")]
    pub proven_since: Option<OffsetDateTime>,
    /// Users in its cache.
    pub users: i64,
    /// The last full sync that it applied to the end.
    pub last_sync_id: Option<Uuid>,
    /// When server B last heard from it.
    #[serde(with = "time::serde::rfc3339")]
    pub received_at: OffsetDateTime,
}

/// The replicas that may be serving: those that reported within their lease and a margin. One that has been silent for
/// some reports may be cut off: it is not known to be ready or proven.
pub async fn live(pool: &PgPool) -> sqlx::Result<Vec<LiveReplica>> {
    sqlx::query_as(
        "SELECT instance, ready AND fresh AS ready, applied_epoch, applied_sequence,
                CASE WHEN fresh THEN proven_epoch END AS proven_epoch,
                CASE WHEN fresh THEN proven_sequence END AS proven_sequence,
                CASE WHEN fresh THEN proven_since END AS proven_since,
                users,
                -- Replicas know a sync by the id of its run.
                coalesce((SELECT sync_id FROM syncs WHERE last_sync_id = ANY (later_runs)), last_sync_id) AS last_sync_id,
                received_at
         FROM replicas, LATERAL (SELECT received_at > now() - interval '5 s') AS report (fresh)
         WHERE received_at > now() - make_interval(secs => (fail_closed_after_ms + $1) / 1000.0)
         ORDER BY instance",
    )
    .bind(LEASE_MARGIN_MS)
    .fetch_all(pool)
    .await
}

/// What a wait came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Waited {
    /// Replicas that are there.
    pub reached: Vec<String>,
    /// Replicas that are not, when the deadline passed.
    pub waiting: Vec<String>,
    /// Why it is not known which replicas there are, or how far they have to come.
    pub unknown: Option<&'static str>,
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Every live replica has applied what is committed by now.
    Applied,
    /// Every live replica has proven itself at or past it, too.
    Proven,
}

/// Waits until every live replica is as far as the changes that are committed now, or the deadline passes.
pub async fn wait(pool: &PgPool, until: Until, deadline: Duration) -> anyhow::Result<Waited> {
    let deadline = Instant::now() + deadline;
    let mut target = None;
    let committed: String = sqlx::query_scalar("SELECT pg_current_snapshot()::text")
        .fetch_one(pool)
        .await
        .context("cannot tell what is committed")?;
    loop {
        if target.is_none() {
            target = match numbering::numbered_by(pool, &committed).await? {
                NumberedBy::Now(position) => Some(position),
                NumberedBy::Not(_) => None,
            };
        }
        let (reached, waiting): (Vec<_>, Vec<_>) = live(pool)
            .await
            .context("cannot read the replicas")?
            .into_iter()
            .partition(|replica| target.is_some_and(|target| replica.is_at(target, until)));
        let unknown = match target {
            None => Some("no server B has numbered the change"),
            Some(_) if !is_heard(pool).await? => Some("no server B hears the replicas"),
            Some(_) => None,
        };
        if (unknown.is_none() && waiting.is_empty()) || Instant::now() >= deadline {
            let names = |replicas: Vec<LiveReplica>| {
                replicas
                    .into_iter()
                    .map(|replica| replica.instance)
                    .collect()
            };
            return Ok(Waited {
                reached: names(reached),
                waiting: names(waiting),
                unknown,
            });
        }
        tokio::time::sleep(WAIT_POLL).await;
    }
}

impl LiveReplica {
    fn is_at(&self, target: Position, until: Until) -> bool {
        let applied = Position {
            epoch: self.applied_epoch,
            sequence: self.applied_sequence,
        };
        let proven = self.proven_epoch.zip(self.proven_sequence);
        let proven = proven.map(|(epoch, sequence)| Position { epoch, sequence });
        applied >= target && (until == Until::Applied || proven >= Some(target))
    }
}
