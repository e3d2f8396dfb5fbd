//! Puts server B together.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use parking_lot::RwLock;
use service_runtime::admin::Admin;
use service_runtime::amqp::{ConnectionState, Connector, Publisher};
use service_runtime::database::{self, AfterMigration, Keeper};
use service_runtime::http::Server;
use service_runtime::intake::Intake;
use service_runtime::lifecycle::Lifecycle;
use service_runtime::readiness::Readiness;
use sqlx::PgPool;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use wire_contract::{SMS_OUTBOUND_DEAD, SMS_OUTBOUND_QUEUE, specs};

use crate::cli::ServeArgs;
use crate::full_sync::FullSyncs;
use crate::keys::KeyRing;
use crate::relay::{self, Relay, RelayStatus};
use crate::sms::consumer::SmsRows;
use crate::sms::providers::Providers;
use crate::sms::usage::Usage;
use crate::snapshot::Snapshots;
use crate::token::Token;
use crate::{MIGRATOR, api, audit, metrics, replicas, retention, sms};

/// Runs until a signal; an error is a task that died.
pub async fn run(args: ServeArgs) -> anyhow::Result<()> {
    metrics::register();
    let mut lifecycle = Lifecycle::new()?;
    let readiness = Readiness::new();
    let connector = Connector::new("server-b", &args.amqp)?;
    let keys = KeyRing::from_args(&args.keys)?;
    let admin_token = args.admin_token.token()?;
    let service_token = args.sms.service_token()?;
    let providers = args.sms.providers()?;
    let pool = database::pool("server-b", &args.database)?;
    let database_gate = readiness.gate("database", "not reached yet");

    let relay_status = Arc::new(RwLock::new(RelayStatus::default()));
    let consumers = Consumers::default();
    let (events, publishing_events) = relay::publisher(connector.clone(), lifecycle.drained());
    let (replies, publishing_replies) =
        Publisher::to_queues(connector.clone(), "snapshots", lifecycle.drained());
    let (dead_letters, publishing_dead) =
        Publisher::to_queues(connector.clone(), "dead letters", lifecycle.drained());

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
        migrate: args.migration.migrate,
        migrated: migrated.clone(),
        gate: database_gate,
    };
    lifecycle.intake("database", keeper.run(shutdown.clone()));
    let router = router(
        api::ApiState {
            pool: pool.clone(),
            keys: keys.clone(),
            admin_token,
        },
        service_token,
        &providers,
    )?;
    lifecycle.intake(
        "public server",
        public_server.serve(router, shutdown.clone()),
    );

    let gate = AfterMigration { migrated, shutdown };
    let suspicion = Arc::new(Notify::new());
    look_after_tables(&mut lifecycle, &gate, &args, &pool, Arc::clone(&suspicion));
    let stream = Stream {
        connector: connector.clone(),
        events,
        replies,
        pool: pool.clone(),
        keys,
        relay_status,
        consumers: consumers.clone(),
        suspicion,
    };
    stream.run(&mut lifecycle, &gate);
    SmsPath {
        connector,
        dead_letters,
        pool,
        providers,
        validity: args.sms.validity(),
        state: consumers.sms,
    }
    .run(&mut lifecycle, &gate);
    lifecycle.run().await
}

/// The admin API, the providers' receipts, and what server A asks.
fn router(
    admin: api::ApiState,
    service_token: Option<Token>,
    providers: &Arc<Providers>,
) -> anyhow::Result<axum::Router> {
    let pool = admin.pool.clone();
    let receipts = api::receipts::router(pool.clone(), Arc::clone(providers));
    let router = api::router(admin)?.merge(receipts);
    Ok(match service_token {
        Some(token) => router.merge(api::internal::router(pool, token)),
        None => router,
    })
}

/// Audits, and the purge of what is too old.
fn look_after_tables(
    lifecycle: &mut Lifecycle,
    gate: &AfterMigration,
    args: &ServeArgs,
    pool: &PgPool,
    suspicion: Arc<Notify>,
) {
    let shutdown = &gate.shutdown;
    let interval = Duration::from_secs(args.audit_interval_seconds);
    let audits = audit::run(pool.clone(), interval, suspicion, shutdown.clone());
    let ages = retention::Ages {
        sms: args.sms.sms_retention_days.into(),
        audit_log: args.audit_log_retention_days.into(),
    };
    let retention = retention::run(pool.clone(), ages, shutdown.clone());
    lifecycle.intake("audits", gate.run(audits));
    lifecycle.intake("retention", gate.run(retention));
}

/// Users → replicas: changes, full syncs, snapshots, and what replicas report.
struct Stream {
    connector: Connector,
    events: Publisher,
    replies: Publisher,
    pool: PgPool,
    keys: KeyRing,
    relay_status: Arc<RwLock<RelayStatus>>,
    consumers: Consumers,
    suspicion: Arc<Notify>,
}

impl Stream {
    fn run(self, lifecycle: &mut Lifecycle, gate: &AfterMigration) {
        let shutdown = || gate.shutdown.clone();
        let relay = Relay {
            pool: self.pool.clone(),
            publisher: self.events.clone(),
            keys: self.keys.clone(),
            status: self.relay_status,
        };
        let full_syncs = FullSyncs {
            pool: self.pool.clone(),
            publisher: self.events,
            keys: self.keys,
        };
        let snapshots = Snapshots {
            suspicion: self.suspicion,
            connector: self.connector.clone(),
            publisher: self.replies.clone(),
            pool: self.pool.clone(),
            state: self.consumers.snapshots,
        };
        let reports = replicas::run(
            self.connector,
            self.replies,
            self.pool,
            self.consumers.reports,
            shutdown(),
        );
        lifecycle.intake("relay", gate.run(relay.run(shutdown())));
        lifecycle.intake("full syncs", gate.run(full_syncs.run(shutdown())));
        lifecycle.intake("snapshots", gate.run(snapshots.run(shutdown())));
        lifecycle.intake("replica reports", gate.run(reports));
    }
}

/// Queue → consumer → row → dispatcher → provider, and what is told of usage.
struct SmsPath {
    connector: Connector,
    dead_letters: Publisher,
    pool: PgPool,
    providers: Arc<Providers>,
    validity: Duration,
    state: Arc<RwLock<ConnectionState>>,
}

impl SmsPath {
    fn run(self, lifecycle: &mut Lifecycle, gate: &AfterMigration) {
        let (wake, shutdown) = (Arc::new(Notify::new()), gate.shutdown.clone());
        sms::metrics::register_providers(&self.providers);
        let (publisher, publishing) = Publisher::to_exchange(
            self.connector.clone(),
            "sms usage",
            specs::sms_usage(),
            lifecycle.drained(),
        );
        lifecycle.support("SMS usage publisher", publishing);
        let usage = Usage::default();
        let telling = usage
            .clone()
            .run(self.pool.clone(), publisher, shutdown.clone());
        let intake = Intake {
            rows: SmsRows {
                pool: self.pool.clone(),
                validity: self.validity,
                usage,
                wake: Arc::clone(&wake),
            },
            connector: self.connector.for_any_message(),
            queue: SMS_OUTBOUND_QUEUE.to_owned(),
            dead_queue: SMS_OUTBOUND_DEAD.to_owned(),
            purpose: "consume SMS",
            consumer_tag: "server-b.sms",
            publisher: self.dead_letters,
            state: self.state,
            shutdown: shutdown.clone(),
        };
        let dispatcher = sms::dispatcher::run(self.pool, self.providers, wake, shutdown);
        lifecycle.intake("SMS consumer", gate.run(intake.run()));
        lifecycle.intake("SMS dispatcher", gate.run(dispatcher));
        lifecycle.intake("SMS usage", gate.run(telling));
    }
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
