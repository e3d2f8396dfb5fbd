//! `cargo xtask cluster`.

use std::fs;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::{Cluster, Turn, ensure_can_run, tools};
use crate::cargo;
use crate::images::{self, Engine};
use crate::interrupt::Interrupt;
use crate::workspace::State;

/// Options of `cargo xtask cluster`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Build the services' images and load them, and the stand-ins of RabbitMQ and PostgreSQL
    #[arg(long)]
    images: bool,
}

/// Runs a cluster until a signal, or until one of its programs dies.
pub fn run(args: &Args) -> Result<ExitCode> {
    let began = Instant::now();
    let interrupt = Interrupt::install()?;
    let state = State::take("cluster")?;
    let mut archives = Vec::new();
    let mut built: Vec<(Engine, String)> = Vec::new();
    // Before anything is built.
    ensure_can_run(state.dir())?;
    let turn = Turn::wait(&interrupt)?;
    if args.images {
        let engine = Engine::find()?;
        cargo::build(state.dir(), "fast", &interrupt)?;
        let tag = env!("CARGO_PKG_VERSION");
        built = images::build(engine, &state, "fast", images::PREFIX, tag)?
            .into_iter()
            .map(|image| (engine, image))
            .collect();
        for recipe in [images::RABBITMQ, images::POSTGRES] {
            archives.push(recipe.ensure(&state, &interrupt)?);
        }
    }
    let helm = tools::HELM4.ensure(state.dir(), &interrupt)?.join("helm");
    let mut cluster = Cluster::start(&state, turn, &interrupt)?;
    for archive in archives {
        cluster.load_archive(&archive)?;
    }
    for (engine, image) in &built {
        cluster.load_image(*engine, image)?;
    }
    let kubeconfig = cluster.kubeconfig();
    println!("Up after {:.1} s.", began.elapsed().as_secs_f64());
    println!("\n  export KUBECONFIG='{}'", kubeconfig.display());
    println!(
        "  alias kubectl='{}'",
        cluster.kubectl().program().display()
    );
    println!("  alias helm='{}'\n", helm.display());
    if args.images {
        let values = state.join("values.json");
        fs::write(&values, images::stand_in_values().to_string())
            .with_context(|| format!("writing {}", values.display()))?;
        println!(
            "  helm install demo charts/identity-sync --values '{}'\n",
            values.display()
        );
    }
    println!("Ctrl-C stops it.");
    let watched = watch(&cluster, &interrupt);
    println!("Stopping …");
    cluster.stop().and(watched)?;
    println!("Everything has stopped.");
    Ok(ExitCode::SUCCESS)
}

fn watch(cluster: &Cluster, interrupt: &Interrupt) -> Result<()> {
    while !interrupt.is_set() {
        cluster.check()?;
        thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}
