//! The command line; each flag is also an environment variable.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand};
use reqwest::Url;
use service_runtime::config::TelemetryArgs;

use crate::failure::EXIT_CODES;

/// Runs server B's full sync and waits until every new replica of server A has proven itself; tests an installation
#[derive(Debug, Parser)]
#[command(name = "resync", version)]
pub struct Cli {
    /// Logs and traces.
    #[command(flatten)]
    pub telemetry: TelemetryArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a full sync and wait until each replica of the Deployment's newest `ReplicaSet` is ready and proven
    #[command(after_help = EXIT_CODES)]
    Run(RunArgs),
    /// Create a user, send an SMS through server A, find it processed in server B, delete the user
    ///
    /// Exits with 0 if all of that worked, 1 if not, 2 for a wrong command line. Certificates of an https:// address are
    /// checked against the system's authorities, or those in the file that `SSL_CERT_FILE` names.
    SmokeTest(SmokeTestArgs),
}

/// How to reach server B.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Server B")]
pub struct ServerBArgs {
    /// Base URL of server B's API, such as `http://identity-sync-server-b:8080`
    #[arg(long, env = "SERVER_B_URL", value_name = "URL")]
    pub server_b_url: Url,

    /// File that holds the bearer token of server B's admin API
    #[arg(long, env = "ADMIN_TOKEN_FILE", value_name = "FILE")]
    pub admin_token_file: PathBuf,
}

/// Settings of `run`.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// How to reach server B.
    #[command(flatten)]
    pub server_b: ServerBArgs,
    /// What it works on.
    #[command(flatten)]
    pub objects: ObjectArgs,

    /// Seconds for everything, the wait for other runs included; at most 20 more to write the result. Helm's --timeout
    /// (300 by default) must be 60 more
    #[arg(long, env = "TIMEOUT_SECONDS", default_value_t = 240, value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout_seconds: u64,

    /// File for the result that `kubectl describe pod` shows
    #[arg(
        long,
        env = "TERMINATION_LOG",
        default_value = "/dev/termination-log",
        value_name = "FILE"
    )]
    pub termination_log: PathBuf,
}

/// The objects of the cluster.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Kubernetes")]
pub struct ObjectArgs {
    /// Namespace of all objects; that of the kubeconfig or of the `ServiceAccount` if absent
    #[arg(long, env = "NAMESPACE", value_name = "NAME",
          value_parser = NonEmptyStringValueParser::new())]
    pub namespace: Option<String>,

    /// Deployment of server A
    #[arg(long, env = "DEPLOYMENT", value_name = "NAME",
          value_parser = NonEmptyStringValueParser::new())]
    pub deployment: String,

    /// Lease behind which several runs queue up; it must exist
    #[arg(long, env = "LEASE", value_name = "NAME",
          value_parser = NonEmptyStringValueParser::new())]
    pub lease: String,

    /// `ConfigMap` for the result; it must exist
    #[arg(long, env = "RESULT_CONFIG_MAP", value_name = "NAME",
          value_parser = NonEmptyStringValueParser::new())]
    pub result_config_map: String,

    /// Name of this run, unique: the pod's name
    #[arg(long, env = "POD_NAME", value_name = "NAME",
          value_parser = NonEmptyStringValueParser::new())]
    pub pod_name: String,

    /// Seconds after which another run may take the Lease of one that died
    #[arg(long, env = "LEASE_DURATION_SECONDS", default_value_t = 15, value_name = "SECONDS",
          value_parser = clap::value_parser!(u16).range(3..=3_600))]
    pub lease_duration_seconds: u16,
}

/// Settings of `smoke-test`.
#[derive(Debug, Clone, Args)]
pub struct SmokeTestArgs {
    /// How to reach server B.
    #[command(flatten)]
    pub server_b: ServerBArgs,

    /// Base URL of server A's API: its Service or its Ingress
    #[arg(long, env = "SERVER_A_URL", value_name = "URL")]
    pub server_a_url: Url,

    /// Number that the SMS goes to; the default is one of those reserved for fiction
    #[arg(
        long,
        env = "SMOKE_TEST_TO",
        default_value = "+14155550123",
        value_name = "NUMBER"
    )]
    pub to: String,

    /// Seconds for everything
    #[arg(long, env = "TIMEOUT_SECONDS", default_value_t = 60, value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub timeout_seconds: u64,
}

impl RunArgs {
    /// The time limit.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds)
    }
}

impl SmokeTestArgs {
    /// The time limit.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
