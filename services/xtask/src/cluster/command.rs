//! `cargo xtask cluster`.

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Cluster, ensure_can_run, tools};
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
    let mut built = Vec::new();
    // Before anything is built.
    ensure_can_run(state.dir())?;
    let engine = Engine::find()?;
    if args.images {
        cargo::build(state.dir(), &interrupt)?;
        built = images::build(engine, &state, "fast", images::PREFIX, "dev")?;
        for recipe in [images::RABBITMQ, images::POSTGRES] {
            archives.push(recipe.ensure(&state, &interrupt)?);
        }
    }
    let helm = tools::HELM4.ensure(state.dir(), &interrupt)?.join("helm");
    let mut cluster = Cluster::start(&state, &interrupt)?;
    for archive in archives {
        cluster.load_archive(&archive)?;
    }
    for image in &built {
        cluster.load_image(engine, image)?;
    }
    let kubeconfig = cluster.kubeconfig();
    println!("Up after {:.1} s.", began.elapsed().as_secs_f64());
    println!("\n  export KUBECONFIG='{}'", kubeconfig.display());
    println!(
        "  alias kubectl='{}'",
        cluster.kubectl().program().display()
    );
    println!("  alias helm='{}'\n", helm.display());
    for image in &built {
        println!("  {image}");
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
