//! The command line. Exit codes: 0 done, 1 failed, 2 not understood.

mod audit_log;
mod dead_letters;
mod full_sync;
mod import;
mod keys;
mod output;
mod progress;
mod replicas;
mod rows;
#[cfg(test)]
mod tests;
mod tokens;
mod users;

use anyhow::{Context, ensure};
use clap::{Args, Parser, Subcommand};
use service_runtime::config::{
    self, AdminArgs, AmqpArgs, DatabaseArgs, ListenArgs, MigrationArgs, TelemetryArgs,
};
use service_runtime::database;
use sqlx::PgPool;
use tracing::{Instrument, Span};

use crate::api::AdminTokenArgs;
use crate::keys::KeyArgs;
use crate::sms::config::SmsArgs;
use crate::{MIGRATOR, serve};

/// The source of truth for users: publishes each change, processes SMS.
#[derive(Debug, Parser)]
#[command(name = "server-b", version, max_term_width = 100)]
pub struct Cli {
    /// Logs and traces.
    #[command(flatten)]
    pub telemetry: TelemetryArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service: admin API, outbox relay, snapshots, full syncs, SMS processing
    Serve(Box<ServeArgs>),
    /// Bring the schema of the database up to date
    Migrate(MigrateArgs),
    /// Publish every user to all replicas and wait until it is done
    #[command(visible_alias = "publish_all_users", after_help = full_sync::EXAMPLES)]
    FullSync(full_sync::FullSyncArgs),
    /// Show every live replica of server A: its position, and whether its cache is proven equal to the database
    #[command(after_help = replicas::EXAMPLES)]
    Replicas(replicas::ReplicasArgs),
    /// Show who has changed what: users, keys, tokens, full syncs
    #[command(after_help = audit_log::EXAMPLES)]
    AuditLog(audit_log::AuditLogArgs),
    /// Look through the SMS that could not be stored, put them back into the queue, or delete them
    #[command(subcommand, after_help = dead_letters::EXAMPLES)]
    DeadLetters(dead_letters::DeadLettersCommand),
    /// List and revoke API keys; seal all of them with another sealing key
    #[command(subcommand, after_help = keys::EXAMPLES)]
    Keys(keys::KeysCommand),
    /// Manage the tokens of the admin API
    #[command(subcommand, after_help = tokens::EXAMPLES)]
    Tokens(tokens::TokensCommand),
    /// Manage users in the database; replicas learn of it like of any other change
    #[command(subcommand, after_help = users::EXAMPLES)]
    Users(users::UsersCommand),
}

/// Configuration of the service.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// The broker.
    #[command(flatten)]
    pub amqp: AmqpArgs,
    /// The database.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// The admin API's address.
    #[command(flatten)]
    pub listen: ListenArgs,
    /// Probes and metrics.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// How API keys are stored and sent.
    #[command(flatten)]
    pub keys: KeyArgs,
    /// Who may call the admin API.
    #[command(flatten)]
    pub admin_token: AdminTokenArgs,
    /// How SMS are processed.
    #[command(flatten)]
    pub sms: SmsArgs,

    /// Seconds between two comparisons of the digest with the tables, which find changes made behind the triggers;
    /// each reads every user once
    #[arg(
        long,
        env = "AUDIT_INTERVAL_SECONDS",
        default_value_t = 600,
        value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..),
        help_heading = "Audit"
    )]
    pub audit_interval_seconds: u64,

    /// Days that entries of the audit log are kept
    #[arg(
        long,
        env = "AUDIT_LOG_RETENTION_DAYS",
        default_value_t = 365,
        value_name = "DAYS",
        value_parser = clap::value_parser!(u16).range(1..=36_500),
        help_heading = "Audit"
    )]
    pub audit_log_retention_days: u16,

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
                let pool = database::reached_pool("server-b", &args.database).await?;
                database::migrate(&pool, &MIGRATOR).await
            }
            Command::Replicas(args) => replicas::run(args).await,
            Command::FullSync(args) => full_sync::run(args).await,
            Command::AuditLog(args) => audit_log::run(args).await,
            Command::DeadLetters(command) => dead_letters::run(command).await,
            Command::Keys(command) => {
                let span = command_span("keys", command.name());
                keys::run(command).instrument(span).await
            }
            Command::Tokens(command) => {
                let span = command_span("tokens", command.name());
                tokens::run(command).instrument(span).await
            }
            Command::Users(command) => {
                let span = command_span("users", command.name());
                users::run(command).instrument(span).await
            }
        }
    }
}

/// Changes made by a command begin their traces in it.
fn command_span(group: &'static str, name: &'static str) -> Span {
    tracing::error_span!(
        "command",
        otel.name = format_args!("server-b {group} {name}"),
        process.executable.name = "server-b",
    )
}

/// A pool whose database has been reached, with the tables there.
async fn connect_migrated(args: &DatabaseArgs) -> anyhow::Result<PgPool> {
    let pool = database::reached_pool("server-b", args).await?;
    // A table of the newest migration that commands need.
    let migrated: bool = sqlx::query_scalar("SELECT to_regclass('admin_tokens') IS NOT NULL")
        .fetch_one(&pool)
        .await
        .context("cannot read the database")?;
    ensure!(
        migrated,
        "the database has no tables yet, or those of an older release: run `server-b migrate` first"
    );
    Ok(pool)
}
