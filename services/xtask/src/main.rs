//! Development commands: `cargo xtask --help`.

mod cargo;
mod check;
mod interrupt;
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
    /// Start everything: RabbitMQ, PostgreSQL, one server B and replicas of server A; Ctrl-C stops it
    ///
    /// Missing packages are installed by apt. The servers are private ones with their state in target/up; set `RABBITMQ_URL`
    /// or `DATABASE_URL` to use others. Addresses and secrets are written to target/up/env.
    Up(up::Args),
    /// Run formatting, lints and all tests, with the servers that they need
    Test(test::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Up(args) => up::run(&args),
        Command::Test(args) => test::run(&args),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("Error: {error:#}");
        ExitCode::FAILURE
    })
}
