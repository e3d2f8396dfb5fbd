//! The command line. Exit codes: 0 done, 1 failed, 2 not understood.

mod auth_events;
mod dead_letters;
#[cfg(test)]
mod tests;

use anyhow::Context;
use clap::builder::BoolishValueParser;
use clap::parser::ValueSource;
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use service_runtime::config::{AdminArgs, AmqpArgs, DatabaseArgs, ListenArgs, TelemetryArgs};
use service_runtime::database;
use sqlx::{Connection, PgConnection};

use crate::topology::QueueArgs;
use crate::{MIGRATOR, serve};

/// What is logged by commands that answer on the terminal, unless LOG says otherwise.
const QUIET: &str = "warn";

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

    /// Bring the schema up to date first; `--migrate=false` where a job of its own does it
    #[arg(
        long,
        env = "MIGRATE",
        default_value = "true",
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true,
        action = ArgAction::Set,
        value_parser = BoolishValueParser::new(),
        value_name = "BOOL",
        help_heading = "PostgreSQL"
    )]
    pub migrate: bool,
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
        let matches = Self::command().get_matches();
        let mut cli = Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
        let log_is_default = matches.value_source("log") == Some(ValueSource::DefaultValue);
        if log_is_default && !matches!(cli.command, Command::Serve(_)) {
            QUIET.clone_into(&mut cli.telemetry.log);
        }
        cli
    }

    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Serve(args) => serve::run(*args).await,
            Command::Migrate(args) => migrate(&args.database).await,
            Command::DeadLetters(command) => dead_letters::run(command).await,
            Command::AuthEvents(args) => auth_events::run(args).await,
        }
    }
}

async fn migrate(args: &DatabaseArgs) -> anyhow::Result<()> {
    let pool = database::pool("user-service", args)?;
    // Not through the pool, which would hide the cause behind its own time limit.
    PgConnection::connect_with(&pool.connect_options())
        .await
        .context("cannot connect to the database that DATABASE_URL names")?
        .close()
        .await
        .context("the database went away")?;
    database::migrate(&pool, &MIGRATOR).await
}
