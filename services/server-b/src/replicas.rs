//! `config_replica_reports` → the `replicas` table: where each replica stands.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::{FutureExt, StreamExt};
use lapin::Connection;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use parking_lot::RwLock;
use service_runtime::amqp::{ConnectionState, Connector, declare_queue, event_type};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use wire_contract::{CONFIG_REPLICA_REPORTS, ReplicaReport, decode_json, specs};

/// Reports in hand at a time.
const PREFETCH: u16 = 500;
/// Beyond a replica's lease: clocks drift and reports travel.
const LEASE_MARGIN_MS: i64 = 5_000;
/// Pause after the database refused a batch.
const RETRY: Duration = Duration::from_millis(500);

/// Stores the reports until `shutdown`.
pub async fn run(
    connector: Connector,
    pool: PgPool,
    state: Arc<RwLock<ConnectionState>>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    connector
        .supervise("replica reports", &state, &shutdown, |connection| {
            session(connection, &pool, &shutdown)
        })
        .await;
    Ok(())
}

async fn session(
    connection: Connection,
    pool: &PgPool,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let channel = connection.create_channel().await?;
    declare_queue(&channel, &specs::replica_reports()).await?;
    channel
        .basic_qos(PREFETCH, BasicQosOptions::default())
        .await?;
    let mut reports = channel
        .basic_consume(
            CONFIG_REPLICA_REPORTS.into(),
            "replica-reports".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await
        .context("cannot consume replica reports")?;
    loop {
        let first = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            delivery = reports.next() => delivery.context("consumer cancelled")??,
        };
        let mut last_tag = first.delivery_tag;
        let mut batch = HashMap::new();
        take(&mut batch, &first);
        while let Some(Some(next)) = reports.next().now_or_never() {
            let next = next?;
            last_tag = next.delivery_tag;
            take(&mut batch, &next);
        }
        let reports: Vec<ReplicaReport> = batch.into_values().collect();
        if let Err(error) = store(pool, &reports).await {
            // Not worth keeping: each replica sends another within a second.
            tracing::warn!(error = format!("{error:#}"), "replica reports not stored");
            tokio::time::sleep(RETRY).await;
        }
        channel
            .basic_ack(last_tag, BasicAckOptions { multiple: true })
            .await?;
    }
}

/// The newest report of each replica is enough.
fn take(batch: &mut HashMap<String, ReplicaReport>, delivery: &Delivery) {
    match decode_json::<ReplicaReport>(event_type(delivery), &delivery.data) {
        Ok(report) => {
            batch.insert(report.instance.clone(), report);
        }
        Err(error) => tracing::warn!(%error, "malformed replica report ignored"),
    }
}

async fn store(pool: &PgPool, reports: &[ReplicaReport]) -> anyhow::Result<()> {
    for report in reports {
        sqlx::query(
            "INSERT INTO replicas (instance, queue, ready, applied_epoch, applied_sequence, proven_epoch,
                 proven_sequence, users, syncing_id, syncing_rows, last_sync_id, fail_closed_after_ms,
                 reported_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
             ON CONFLICT (instance) DO UPDATE SET
                 queue = excluded.queue, ready = excluded.ready,
                 applied_epoch = excluded.applied_epoch, applied_sequence = excluded.applied_sequence,
                 proven_epoch = excluded.proven_epoch, proven_sequence = excluded.proven_sequence,
                 users = excluded.users, syncing_id = excluded.syncing_id,
                 syncing_rows = excluded.syncing_rows, last_sync_id = excluded.last_sync_id,
                 fail_closed_after_ms = excluded.fail_closed_after_ms,
                 reported_at = excluded.reported_at, received_at = now()
             WHERE replicas.reported_at <= excluded.reported_at",
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
        .execute(pool)
        .await
        .with_context(|| format!("cannot store the report of {}", report.instance))?;
    }
    Ok(())
}

fn clamp(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Rows of a full sync that the slowest live replica has taken in; `None` when none reports on it. A
/// replica that began after `sync.started` does not take part.
pub async fn slowest_in_sync(pool: &PgPool, sync_id: Uuid) -> anyhow::Result<Option<u64>> {
    let rows: Option<i64> = sqlx::query_scalar(
        "SELECT min(syncing_rows) FROM replicas
         WHERE syncing_id = $1
           AND received_at > now() - make_interval(secs => (fail_closed_after_ms + $2) / 1000.0)",
    )
    .bind(sync_id)
    .bind(LEASE_MARGIN_MS)
    .fetch_one(pool)
    .await
    .context("cannot read how far the replicas are")?;
    Ok(rows.map(i64::unsigned_abs))
}
