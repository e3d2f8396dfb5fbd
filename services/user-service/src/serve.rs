//! Puts user-service together.

use std::sync::Arc;

use futures_util::FutureExt;
use parking_lot::RwLock;
use service_runtime::admin::Admin;
use service_runtime::amqp::{ConnectionState, Connector, Publisher};
use service_runtime::database::{self, Keeper};
use service_runtime::http::Server;
use service_runtime::intake::Intake;
use service_runtime::lifecycle::Lifecycle;
use service_runtime::readiness::Readiness;
use tokio_util::sync::CancellationToken;

use crate::cli::ServeArgs;
use crate::consumer::{self, ReferenceRows};
use crate::{MIGRATOR, api};

/// Runs until a signal; an error is a task that died.
///
/// Nothing waits for RabbitMQ. Readiness is that of the API, which needs the database, and not of the broker:
/// a replica without it answers every request from the table, and taking it out of service would mend nothing,
/// while events wait in their queue. `/status` tells of the broker.
pub async fn run(args: ServeArgs) -> anyhow::Result<()> {
    let mut lifecycle = Lifecycle::new()?;
    let readiness = Readiness::new();
    let connector = Connector::new("user-service", &args.amqp)?;
    let pool = database::pool("user-service", &args.database)?;
    let database_gate = readiness.gate("database", "not reached yet");
    let consumer_state = ConnectionState::shared();
    // The consumer declares the queue, and nothing is dead before it consumes.
    let (publisher, publishing) =
        Publisher::to_queues(connector.clone(), "dead letters", lifecycle.drained());

    let admin_server = Server::bind("admin", args.admin.admin_listen).await?;
    let public_server = Server::bind("public", args.listen.listen).await?;
    let shutdown = lifecycle.shutdown();
    let admin = Admin::new(
        "user-service",
        readiness.clone(),
        status(readiness, &consumer_state, &publisher),
        || async { consumer::metrics::on_scrape() }.boxed(),
    )?;
    lifecycle.support(
        "admin server",
        admin_server.serve(admin.router(), lifecycle.drained()),
    );
    lifecycle.support("dead-letter publisher", publishing);

    let keeper = Keeper {
        pool: pool.clone(),
        migrator: &MIGRATOR,
        migrate: args.migration.migrate,
        migrated: CancellationToken::new(),
        gate: database_gate,
    };
    lifecycle.intake("database", keeper.run(shutdown.clone()));
    lifecycle.intake(
        "public server",
        public_server.serve(api::router(pool.clone())?, shutdown.clone()),
    );
    // Not held back until the tables are there: the queue must exist as early as it can, since what is published
    // before goes nowhere.
    consumer::metrics::register();
    let intake = Intake {
        connector: connector.for_any_message(),
        queue: args.queues.user_created_queue.clone(),
        dead_queue: args.queues.user_created_dead_queue.clone(),
        purpose: "consume UserCreated",
        consumer_tag: "user-service",
        publisher,
        state: consumer_state,
        shutdown,
        rows: ReferenceRows {
            names: args.queues,
            pool,
        },
    };
    lifecycle.intake("consumer", intake.run());
    lifecycle.run().await
}

fn status(
    readiness: Readiness,
    consumer: &Arc<RwLock<ConnectionState>>,
    dead_letters: &Publisher,
) -> impl Fn() -> serde_json::Value + Send + Sync + 'static {
    let (consumer, dead_letters) = (Arc::clone(consumer), dead_letters.clone());
    move || {
        serde_json::json!({
            "not_ready": readiness.pending(),
            "connections": {
                "user_created_consumer": *consumer.read(),
                "dead_letters": dead_letters.state(),
            },
        })
    }
}
