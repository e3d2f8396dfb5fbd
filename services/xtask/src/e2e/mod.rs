//! `cargo xtask e2e`: installs the chart on a real cluster, and tries what operators and the world do to it.

mod load;
mod operate;
mod outages;
mod release;
mod stage;
mod world;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;

use crate::cluster::CannotRun;
use crate::interrupt::Interrupt;
use crate::workspace::State;
use stage::Stage;
pub use stage::build_images;
use world::World;

/// Options of `cargo xtask e2e`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Leave everything as it is in the end, or when a scenario failed, until Ctrl-C
    #[arg(long)]
    keep: bool,

    /// Registry and path of the images for a cluster that `KUBECONFIG` names, where `cargo xtask images --e2e --prefix PREFIX`
    /// and a push have put them
    #[arg(long, value_name = "PREFIX")]
    images: Option<String>,
}

/// What a scenario does; the text tells what it saw.
type Run = fn(&World) -> Result<String>;

/// In this order: each begins with what the one before has left.
const SCENARIOS: [(&str, Run); 11] = [
    ("helm install with default values", release::install),
    (
        "a pod of A is unready until its cache is complete",
        operate::unready_until_complete,
    ),
    (
        "an upgrade that changes nothing rolls nothing",
        release::upgrade_to_the_same,
    ),
    (
        "helm upgrade from 2 to 4 replicas under load",
        release::upgrade_to_more_replicas,
    ),
    (
        "restarted, deleted and added pods become ready by themselves",
        operate::pods_without_a_job,
    ),
    (
        "resyncs by kubectl heal drift and queue up",
        operate::resyncs_by_kubectl,
    ),
    (
        "RabbitMQ, PostgreSQL and B are killed under load",
        outages::pods_are_killed,
    ),
    (
        "the Job's ServiceAccount may do what it needs and nothing else",
        operate::least_privilege,
    ),
    (
        "rolling upgrade to another tag and rollback under load",
        release::upgrade_and_rollback,
    ),
    (
        "a sync that fails fails the release with its reason",
        release::failing_sync,
    ),
    (
        "helm uninstall leaves what the docs name",
        release::uninstall,
    ),
];

/// Runs all scenarios until one fails; the last line counts them.
pub fn run(args: &Args) -> Result<ExitCode> {
    let interrupt = Interrupt::install()?;
    let dir = State::take("e2e")?;
    let mut stage = match Stage::set(&dir, args.images.as_deref(), &interrupt) {
        Ok(stage) => stage,
        Err(error) => {
            let Some(cannot) = error.downcast_ref::<CannotRun>() else {
                return Err(error);
            };
            println!("Skipped: {cannot}");
            println!("0 passed, 0 failed, {} skipped", SCENARIOS.len());
            return Ok(ExitCode::SUCCESS);
        }
    };
    let (passed, failed) = play(&stage, &interrupt);
    if args.keep {
        println!(
            "The cluster stays until Ctrl-C: export KUBECONFIG='{}'",
            stage.kubeconfig().display()
        );
        interrupt.wait();
    }
    stage.strike()?;
    println!(
        "{passed} passed, {} failed, {} skipped",
        u8::from(failed),
        SCENARIOS.len() - passed - usize::from(failed)
    );
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Gives how many scenarios passed, and whether one failed: the others need what it should have left.
fn play(stage: &Stage, interrupt: &Interrupt) -> (usize, bool) {
    for (passed, (name, run)) in SCENARIOS.into_iter().enumerate() {
        let began = Instant::now();
        let outcome = run(&stage.world).and_then(|saw| interrupt.check().map(|()| saw));
        let seconds = began.elapsed().as_secs_f64();
        match outcome {
            Ok(saw) => println!("{seconds:6.1} s  ok  {name}: {saw}"),
            Err(error) => {
                println!("{seconds:6.1} s  FAILED  {name}: {error:#}");
                println!("{}", stage.describe_failure());
                return (passed, true);
            }
        }
    }
    (SCENARIOS.len(), false)
}
