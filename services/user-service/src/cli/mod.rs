//! The command line. Exit codes: 0 done, 1 failed, 2 not understood.

mod auth_events;
mod dead_letters;
#[cfg(test)]
mod tests;

use clap::{Args, Parser, Subcommand};
use service_runtime::config::{
    self, AdminArgs, AmqpArgs, DatabaseArgs, ListenArgs, MigrationArgs, TelemetryArgs,
};
use service_runtime::database;

use crate::topology::QueueArgs;
use crate::{MIGRATOR, serve};

/// Keeps an `AuthUserReference` for every user that the auth-service creates.
#[derive(Debug, Parser)]
#[command(name = "user-service", version, max_term_width = 100)]
pub struct Cli {
    /// Logs and traces.
    #[command(flatten)]
    pub telemetry: TelemetryArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service: consumer of `UserCreated`, read API
    Serve(Box<ServeArgs>),
    /// Bring the schema of the database up to date
    Migrate(MigrateArgs),
    /// Handle the messages that could not become a reference
    #[command(subcommand, after_help = dead_letters::EXAMPLES)]
    DeadLetters(dead_letters::DeadLettersCommand),
    /// Development tool: play the auth-service and publish `UserCreated` events with made-up users
    #[command(hide = true, after_help = auth_events::EXAMPLES)]
    AuthEvents(auth_events::AuthEventsArgs),
}

/// Configuration of the service.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// The broker.
    #[command(flatten)]
    pub amqp: AmqpArgs,
    /// Names at the broker.
    #[command(flatten)]
    pub queues: QueueArgs,
    /// The database.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// The API's address.
    #[command(flatten)]
    pub listen: ListenArgs,
    /// Probes and metrics.
    #[command(flatten)]
    pub admin: AdminArgs,

    /// The schema.
    #[command(flatten)]
    pub migration: MigrationArgs,
}

#[derive(Debug, Args)]
struct MigrateArgs {
    #[command(flatten)]
    database: DatabaseArgs,
}

impl Cli {
    /// Parses the command line and the environment; exits when asked for help or not understood.
    #[must_use]
    pub fn from_command_line() -> Self {
        let answers = |cli: &Self| !matches!(cli.command, Command::Serve(_));
        config::command_line(answers, |cli| &mut cli.telemetry)
    }

    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Serve(args) => serve::run(*args).await,
            Command::Migrate(args) => {
                let pool = database::reached_pool("user-service", &args.database).await?;
                database::migrate(&pool, &MIGRATOR).await
            }
            Command::DeadLetters(command) => dead_letters::run(command).await,
            Command::AuthEvents(args) => auth_events::run(args).await,
        }
    }
}
