//! Puts server B together.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use parking_lot::RwLock;
use service_runtime::admin::Admin;
use service_runtime::amqp::{ConnectionState, Connector, Publisher};
use service_runtime::database::{self, AfterMigration, Keeper};
use service_runtime::http::Server;
use service_runtime::lifecycle::Lifecycle;
use service_runtime::readiness::Readiness;
use sqlx::PgPool;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::cli::ServeArgs;
use crate::full_sync::FullSyncs;
use crate::keys::KeyRing;
use crate::relay::{self, Relay, RelayStatus};
use crate::snapshot::Snapshots;
use crate::{MIGRATOR, api, audit, audit_log, metrics, replicas, sms};

/// Runs until a signal; an error is a task that died.
pub async fn run(args: ServeArgs) -> anyhow::Result<()> {
    metrics::register();
    let mut lifecycle = Lifecycle::new();
    let readiness = Readiness::new();
    let connector = Connector::new("server-b", &args.amqp)?;
    let keys = KeyRing::from_args(&args.keys)?;
    let admin_token = args.admin_token.token()?;
    let pool = database::pool("server-b", &args.database)?;
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
        "server-b",
        readiness,
        status(&relay_status, &consumers, &events),
        on_scrape(&pool, &relay_status),
    )?;
    lifecycle.support(
        "admin server",
        admin_server.serve(admin.router(), drained.clone()),
    );
    lifecycle.support("event publisher", publishing_events);
    lifecycle.support("snapshot publisher", publishing_replies);
    lifecycle.support("dead-letter publisher", publishing_dead);

    // Whatever needs tables waits for them; probes are served meanwhile.
    let migrated = CancellationToken::new();
    // Readiness is that of the API, which needs the database, and not of the broker, for which the outbox
    // waits.
    let keeper = Keeper {
        pool: pool.clone(),
        migrator: &MIGRATOR,
        migrate: args.migrate,
        migrated: migrated.clone(),
        gate: database_gate,
    };
    lifecycle.intake("database", keeper.run(shutdown.clone()));
    let router = api::router(api::ApiState {
        pool: pool.clone(),
        keys: keys.clone(),
        admin_token,
    })?;
    lifecycle.intake(
        "public server",
        public_server.serve(router, shutdown.clone()),
    );

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
    let suspicion = Arc::new(Notify::new());
    let snapshots = Snapshots {
        suspicion: Arc::clone(&suspicion),
        connector: connector.clone(),
        publisher: replies,
        pool: pool.clone(),
        state: Arc::clone(&consumers.snapshots),
    };
    let gate = AfterMigration { migrated, shutdown };
    lifecycle.intake("relay", gate.run(relay.run(gate.shutdown.clone())));
    lifecycle.intake(
        "full syncs",
        gate.run(full_syncs.run(gate.shutdown.clone())),
    );
    let interval = Duration::from_secs(args.audit_interval_seconds);
    let audits = audit::run(pool.clone(), interval, suspicion, gate.shutdown.clone());
    lifecycle.intake("audits", gate.run(audits));
    let days = args.audit_log_retention_days;
    let log = audit_log::run(pool.clone(), days, gate.shutdown.clone());
    lifecycle.intake("audit log", gate.run(log));
    lifecycle.intake("snapshots", gate.run(snapshots.run(gate.shutdown.clone())));
    let reports = replicas::run(
        connector.clone(),
        pool.clone(),
        Arc::clone(&consumers.reports),
        gate.shutdown.clone(),
    );
    lifecycle.intake("replica reports", gate.run(reports));
    process_sms(
        &mut lifecycle,
        &gate,
        connector,
        dead_letters,
        pool,
        consumers.sms,
    );
    lifecycle.run().await
}

/// Queue → consumer → row → dispatcher → provider.
fn process_sms(
    lifecycle: &mut Lifecycle,
    gate: &AfterMigration,
    connector: Connector,
    dead_letters: Publisher,
    pool: PgPool,
    state: Arc<RwLock<ConnectionState>>,
) {
    let wake = Arc::new(Notify::new());
    let consumer = sms::consumer::run(
        connector.for_any_message(),
        dead_letters,
        pool.clone(),
        state,
        Arc::clone(&wake),
        gate.shutdown.clone(),
    );
    let provider = Arc::new(sms::provider::LogProvider);
    let dispatcher = sms::dispatcher::run(pool, provider, wake, gate.shutdown.clone());
    lifecycle.intake("SMS consumer", gate.run(consumer));
    lifecycle.intake("SMS dispatcher", gate.run(dispatcher));
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
            metrics::on_scrape(&pool, &relay).await;
        }
        .boxed()
    }
}
