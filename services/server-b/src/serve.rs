//! Puts server B together.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::FutureExt;
use parking_lot::RwLock;
use service_runtime::admin::Admin;
use service_runtime::amqp::{ConnectionState, Connector, Publisher};
use service_runtime::http::Server;
use service_runtime::lifecycle::Lifecycle;
use service_runtime::readiness::{Gate, Readiness};
use sqlx::PgPool;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::cli::ServeArgs;
use crate::full_sync::FullSyncs;
use crate::keys::KeyRing;
use crate::relay::{self, Relay, RelayStatus};
use crate::snapshot::Snapshots;
use crate::{api, db, replicas, sms};

/// How often the database is probed for readiness.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// A database that does not answer by then is down.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// Runs until a signal; an error is a task that died.
pub async fn run(args: ServeArgs) -> anyhow::Result<()> {
    let mut lifecycle = Lifecycle::new();
    let readiness = Readiness::new();
    let connector = Connector::new("server-b", &args.amqp)?;
    let keys = KeyRing::from_args(&args.keys)?;
    let admin_token = args.admin_token.token()?;
    let pool = db::pool(&args.database)?;
    let database_gate = readiness.gate("database", "not reached yet");

    let relay_status = Arc::new(RwLock::new(RelayStatus::default()));
    let consumers = Consumers::default();
    let (events, publishing_events) = relay::publisher(connector.clone(), lifecycle.drained());
    let (replies, publishing_replies) = plain_publisher(&connector, "snapshots", &lifecycle);
    let (dead_letters, publishing_dead) = plain_publisher(&connector, "dead letters", &lifecycle);

    let admin_server = Server::bind("admin", args.admin.admin_listen).await?;
    let public_server = Server::bind("public", args.listen.listen).await?;
    let shutdown = lifecycle.shutdown();
    let drained = lifecycle.drained();
    let admin = Admin::new(
        readiness,
        status(&relay_status, &consumers, &events),
        on_scrape(&pool, &relay_status),
    );
    lifecycle.support("admin server", admin_server.serve(admin.router(), drained.clone()));
    lifecycle.support("event publisher", publishing_events);
    lifecycle.support("snapshot publisher", publishing_replies);
    lifecycle.support("dead-letter publisher", publishing_dead);

    // Whatever needs tables waits for them; probes are served meanwhile.
    let migrated = CancellationToken::new();
    lifecycle.intake(
        "database",
        keep_database(pool.clone(), args.migrate, migrated.clone(), database_gate, shutdown.clone()),
    );
    let router = api::router(api::ApiState {
        pool: pool.clone(),
        keys: keys.clone(),
        admin_token,
    });
    lifecycle.intake("public server", public_server.serve(router, shutdown.clone()));

    let relay = Relay {
        pool: pool.clone(),
        publisher: events.clone(),
        keys: keys.clone(),
        status: relay_status,
    };
    let full_syncs = FullSyncs {
        pool: pool.clone(),
        publisher: events,
        keys,
    };
    let snapshots = Snapshots {
        connector: connector.clone(),
        publisher: replies,
        pool: pool.clone(),
        state: Arc::clone(&consumers.snapshots),
    };
    let wake = Arc::new(Notify::new());
    let consumer = sms::consumer::run(
        connector.clone(),
        dead_letters,
        pool.clone(),
        Arc::clone(&consumers.sms),
        Arc::clone(&wake),
        shutdown.clone(),
    );
    let dispatcher = sms::dispatcher::run(
        pool.clone(),
        Arc::new(sms::provider::LogProvider),
        wake,
        shutdown.clone(),
    );
    let reports = replicas::run(connector, pool, Arc::clone(&consumers.reports), shutdown.clone());

    let gate = AfterMigration { migrated, shutdown };
    lifecycle.intake("relay", gate.run(relay.run(gate.shutdown.clone())));
    lifecycle.intake("full syncs", gate.run(full_syncs.run(gate.shutdown.clone())));
    lifecycle.intake("snapshots", gate.run(snapshots.run(gate.shutdown.clone())));
    lifecycle.intake("replica reports", gate.run(reports));
    lifecycle.intake("SMS consumer", gate.run(consumer));
    lifecycle.intake("SMS dispatcher", gate.run(dispatcher));
    lifecycle.run().await
}

/// The consuming connections, for `/status`.
#[derive(Clone)]
struct Consumers {
    sms: Arc<RwLock<ConnectionState>>,
    snapshots: Arc<RwLock<ConnectionState>>,
    reports: Arc<RwLock<ConnectionState>>,
}

impl Default for Consumers {
    fn default() -> Self {
        Self {
            sms: ConnectionState::shared(),
            snapshots: ConnectionState::shared(),
            reports: ConnectionState::shared(),
        }
    }
}

/// Starts a task once the tables are there.
struct AfterMigration {
    migrated: CancellationToken,
    shutdown: CancellationToken,
}

impl AfterMigration {
    fn run<F>(&self, task: F) -> impl Future<Output = anyhow::Result<()>> + Send + use<F>
    where
        F: Future<Output = anyhow::Result<()>> + Send,
    {
        let (migrated, shutdown) = (self.migrated.clone(), self.shutdown.clone());
        async move {
            tokio::select! {
                () = shutdown.cancelled() => Ok(()),
                () = migrated.cancelled() => task.await,
            }
        }
    }
}

/// A publisher to queues that others declare.
fn plain_publisher(
    connector: &Connector,
    purpose: &'static str,
    lifecycle: &Lifecycle,
) -> (
    Publisher,
    impl Future<Output = anyhow::Result<()>> + Send + 'static,
) {
    Publisher::new(
        connector.clone(),
        purpose,
        |_| std::future::ready(Ok(())).boxed(),
        lifecycle.drained(),
    )
}

fn status(
    relay: &Arc<RwLock<RelayStatus>>,
    consumers: &Consumers,
    events: &Publisher,
) -> impl Fn() -> serde_json::Value + Send + Sync + 'static {
    let (relay, consumers, events) = (Arc::clone(relay), consumers.clone(), events.clone());
    move || {
        serde_json::json!({
            "relay": *relay.read(),
            "connections": {
                "config_events": events.state(),
                "sms_consumer": *consumers.sms.read(),
                "snapshots": *consumers.snapshots.read(),
                "replica_reports": *consumers.reports.read(),
            },
        })
    }
}

fn on_scrape(
    pool: &PgPool,
    relay: &Arc<RwLock<RelayStatus>>,
) -> impl Fn() -> futures_util::future::BoxFuture<'static, ()> + Send + Sync + 'static {
    let (pool, relay) = (pool.clone(), Arc::clone(relay));
    move || {
        let (pool, relay) = (pool.clone(), Arc::clone(&relay));
        async move {
            if let Err(error) = relay::on_scrape(&pool, &relay).await {
                tracing::warn!(error = format!("{error:#}"), "outbox not measured");
            }
        }
        .boxed()
    }
}

/// Migrates as soon as the database answers, then follows whether it does: readiness is that of the API,
/// which needs the database, and not of the broker, for which the outbox waits.
async fn keep_database(
    pool: PgPool,
    migrate: bool,
    migrated: CancellationToken,
    gate: Gate,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        let up = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            up = probe(&pool, migrate, &migrated) => up,
        };
        match up {
            Ok(()) => gate.open(),
            Err(error) => gate.close(&format!("{error:#}")),
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(PROBE_EVERY) => {}
        }
    }
}

async fn probe(pool: &PgPool, migrate: bool, migrated: &CancellationToken) -> anyhow::Result<()> {
    if !migrated.is_cancelled() {
        if migrate {
            db::migrate(pool).await?;
        }
        let _: i64 = sqlx::query_scalar("SELECT term FROM relay_state")
            .fetch_one(pool)
            .await
            .context("the tables are missing; run `server-b migrate`")?;
        migrated.cancel();
    }
    tokio::time::timeout(PROBE_TIMEOUT, sqlx::query("SELECT 1").execute(pool))
        .await
        .context("the database does not answer")?
        .context("the database is not reachable")?;
    Ok(())
}
