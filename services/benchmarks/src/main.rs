//! Benchmarks: the product and its limit, in alternation, in one run. Started by `cargo xtask bench`, which passes the
//! servers and our binaries as it does to tests.
//!
//! Load, broker and database share the machine with what is measured, so only ratios count.

mod bare;
mod bench;
mod benchmarks;
mod load;
mod measure;
mod report;
mod scaling;
mod stats;
mod users;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use bench::Bench;
use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Run benchmarks
#[derive(Debug, Parser)]
struct Cli {
    /// Which; all if none is named
    names: Vec<String>,

    /// Name them, and what each compares
    #[arg(long)]
    list: bool,

    /// Rounds in which the variants take turns
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: Option<u16>,

    /// One short round with small counts: shows that it works, not how fast
    #[arg(long)]
    short: bool,

    /// The profile that our binaries were built with
    #[arg(long, value_name = "NAME", default_value = "fast")]
    profile: String,

    /// Directory of the results
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    out: PathBuf,
}

fn main() -> ExitCode {
    service_runtime::install_crypto_provider();
    if let Some(weighed) = benchmarks::memory::weigh_if_asked() {
        println!("{weighed}");
        return ExitCode::SUCCESS;
    }
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    if cli.list {
        for benchmark in benchmarks::ALL {
            println!("{:14}{}", benchmark.name, benchmark.compares);
        }
        println!("{:14}{}", scaling::NAME, scaling::COMPUTES);
        return Ok(());
    }
    if cli.names == [scaling::NAME] {
        return scaling::print(&cli.out);
    }
    let chosen = benchmarks::chosen(&cli.names)?;
    let rounds = cli.rounds.map(usize::from);
    let bench = Bench::new(rounds, cli.short, &cli.profile, &cli.out)?;
    let mut failed = Vec::new();
    for benchmark in chosen {
        eprintln!("{}: {}", benchmark.name, benchmark.compares);
        let outcome = (benchmark.run)(&bench).and_then(|report| report.finish(&bench));
        if let Err(error) = outcome {
            // The others may tell something all the same.
            eprintln!("Error: {}: {error:#}", benchmark.name);
            failed.push(benchmark.name);
        }
    }
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}
