//! Development commands: `cargo xtask --help`.

mod auth_event;
mod bench;
mod cargo;
mod chart;
mod check;
mod cluster;
mod dashboards;
mod e2e;
mod images;
mod interrupt;
mod observe;
mod process;
mod schemathesis;
mod servers;
mod services;
mod test;
mod up;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Runs and tests identity-sync on this machine
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start everything: RabbitMQ, PostgreSQL, one server B, replicas of server A, user-service; Ctrl-C stops it
    ///
    /// Missing packages are installed by apt. The servers are private ones with their state in target/up; set `RABBITMQ_URL`
    /// or `DATABASE_URL` to use others. Addresses and secrets are written to target/up/env.
    Up(up::Args),
    /// Run formatting, lints and all tests, with the servers that they need
    Test(test::Args),
    /// Play the auth-service: publish `UserCreated` events of made-up users to the broker of `cargo xtask up`
    AuthEvent(auth_event::Args),
    /// Measure the product beside its limits, in alternation
    ///
    /// Results are printed and written to target/bench/NAME.json. They never fail for a slow figure.
    Bench(bench::Args),
    /// Check the Helm chart, the manifests below k8s/ and the Tiltfile without a cluster
    Chart(chart::Args),
    /// Build one image per service, with Docker or Buildah
    Images(images::Args),
    /// Run a throwaway Kubernetes cluster until Ctrl-C
    ///
    /// Needs root. Missing packages are installed by apt, the rest is built from Go modules once and kept in the user's
    /// cache directory. State and logs are in target/cluster.
    Cluster(cluster::Args),
    /// Install the chart on a real Kubernetes cluster, and try what operators and the world do to it
    ///
    /// On the cluster that `KUBECONFIG` names, else on a throwaway one as of `cargo xtask cluster`. Where that cannot run,
    /// it says what is missing and counts everything as skipped.
    E2e(e2e::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Up(args) => up::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::AuthEvent(args) => auth_event::run(&args),
        Command::Chart(args) => chart::run(&args),
        Command::Images(args) => images::command(&args),
        Command::Cluster(args) => cluster::run(&args),
        Command::E2e(args) => e2e::run(&args),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("Error: {error:#}");
        ExitCode::FAILURE
    })
}
