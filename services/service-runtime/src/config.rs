//! Configuration groups shared by the services: flags that read the environment.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use secrecy::SecretString;

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
