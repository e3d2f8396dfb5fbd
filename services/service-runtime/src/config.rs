//! Configuration groups shared by the services: flags that read the environment.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::parser::ValueSource;
use clap::{ArgAction, Args, Parser, ValueEnum};
use secrecy::SecretString;

/// What is logged by commands that answer on the terminal, unless LOG says otherwise.
const QUIET: &str = "warn";

/// How to reach RabbitMQ.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "RabbitMQ")]
pub struct AmqpArgs {
    /// URL of the broker, amqp:// or amqps://, with user, password and vhost
    #[arg(
        long,
        env = "RABBITMQ_URL",
        default_value = "amqp://guest:guest@rabbitmq:5672/",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub rabbitmq_url: SecretString,

    /// PEM file with the certificate authorities that amqps:// trusts besides the system's
    #[arg(long, env = "RABBITMQ_CA_FILE", value_name = "FILE")]
    pub rabbitmq_ca_file: Option<PathBuf>,
}

/// How to reach PostgreSQL.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "PostgreSQL")]
pub struct DatabaseArgs {
    /// URL of the database, postgres://user:password@host:port/name; TLS by `?sslmode=verify-full&sslrootcert=FILE`
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: SecretString,

    /// Connections that one process opens at most
    #[arg(long, env = "DATABASE_MAX_CONNECTIONS", default_value_t = 20, value_name = "N",
          value_parser = clap::value_parser!(u32).range(4..=1000))]
    pub database_max_connections: u32,
}

/// Who brings the schema up to date.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "PostgreSQL")]
pub struct MigrationArgs {
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
        value_name = "BOOL"
    )]
    pub migrate: bool,
}

/// Where probes and metrics are served.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Server")]
pub struct AdminArgs {
    /// Address of /livez, /readyz, /status and /metrics; keep it inside the cluster
    #[arg(
        long,
        env = "ADMIN_LISTEN",
        default_value = "0.0.0.0:9090",
        value_name = "ADDRESS"
    )]
    pub admin_listen: SocketAddr,
}

/// Where the API is served.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Server")]
pub struct ListenArgs {
    /// Address of the API
    #[arg(
        long,
        env = "LISTEN",
        default_value = "0.0.0.0:8080",
        value_name = "ADDRESS"
    )]
    pub listen: SocketAddr,
}

/// Logs and traces.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Telemetry")]
pub struct TelemetryArgs {
    /// What is logged: a level, or directives such as `info,server_a=debug`
    #[arg(
        long,
        env = "LOG",
        default_value = "info",
        global = true,
        value_name = "FILTER"
    )]
    pub log: String,

    /// How logs are written
    #[arg(
        long,
        env = "LOG_FORMAT",
        default_value = "auto",
        global = true,
        value_name = "FORMAT"
    )]
    pub log_format: LogFormat,
}

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise
    Auto,
    /// One JSON object a line
    Json,
    /// For people
    Text,
}

/// Parses the command line and the environment; exits when asked for help or not understood. What `answers` on the terminal
/// logs little, unless LOG says otherwise.
pub fn command_line<C: Parser>(
    answers: impl FnOnce(&C) -> bool,
    telemetry: impl FnOnce(&mut C) -> &mut TelemetryArgs,
) -> C {
    let matches = C::command().get_matches();
    let mut cli = C::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let log_is_default = matches.value_source("log") == Some(ValueSource::DefaultValue);
    if log_is_default && answers(&cli) {
        QUIET.clone_into(&mut telemetry(&mut cli).log);
    }
    cli
}
