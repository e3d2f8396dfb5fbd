//! `cargo xtask bench`.

use std::process::ExitCode;

use anyhow::Result;
use test_support::servers::packages;
use test_support::{BIN_DIR_VAR, DATABASE_VAR, MANAGEMENT_VAR, RABBITMQ_VAR};

use crate::cargo;
use crate::interrupt::Interrupt;
use crate::servers::Servers;
use crate::workspace::{self, State};

/// Computed from earlier results: needs no servers.
const SCALING: &str = "scaling";

/// Options of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which benchmarks; all if none is named
    #[arg(value_name = "NAME")]
    names: Vec<String>,

    /// Name them, and what each compares
    #[arg(long)]
    list: bool,

    /// Rounds in which the variants take turns; 5 if not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: Option<u16>,

    /// One short round with small counts: shows that it works, not how fast
    #[arg(long)]
    short: bool,

    /// Cargo's profile of what is measured: `fast`, which tests and `up` run, or `release`
    #[arg(long, value_name = "NAME", default_value = "fast")]
    profile: String,
}

/// Builds, starts private servers, and runs the program that measures.
pub fn run(args: &Args) -> Result<ExitCode> {
    let interrupt = Interrupt::install()?;
    let state = State::take("bench")?;
    build(&state, &args.profile, &interrupt)?;
    let bin_dir = workspace::bin_dir_of(&args.profile)?;
    let mut command = cargo::program(state.dir(), &bin_dir.join("benchmarks"))?;
    command.args(&args.names);
    command.args(["--profile", &args.profile]);
    command.arg("--out").arg(state.dir());
    if args.short {
        command.arg("--short");
    }
    if let Some(rounds) = args.rounds {
        command.args(["--rounds", &rounds.to_string()]);
    }
    if args.list {
        command.arg("--list");
    }
    if args.list || args.names == [SCALING] {
        cargo::run(command, &interrupt)?;
        return Ok(ExitCode::SUCCESS);
    }
    packages::ensure()?;
    let (rabbitmq, postgres) = Servers::start_for_benchmarks(&state)?;
    interrupt.check()?;
    command.env(BIN_DIR_VAR, bin_dir);
    command.env(RABBITMQ_VAR, rabbitmq.amqp_url("").trim_end_matches('/'));
    command.env(MANAGEMENT_VAR, rabbitmq.management_url());
    command.env(DATABASE_VAR, postgres.url("postgres"));
    cargo::run(command, &interrupt)?;
    Ok(ExitCode::SUCCESS)
}

/// Server A without authentication comes last, since it is another server A.
fn build(state: &State, profile: &str, interrupt: &Interrupt) -> Result<()> {
    cargo::build(state.dir(), profile, interrupt)?;
    let no_auth = [
        "build",
        "--profile",
        profile,
        "--workspace",
        "--bin",
        "no_auth",
        "--features",
        "benchmarks/no-auth",
    ];
    cargo::run(cargo::command(state.dir(), &no_auth)?, interrupt)
}
