//! `cargo xtask up --check`: the main job on real input, as its users do it.

mod observed;
mod probe;
mod report;
mod sms;
mod steps;
mod user_created;

use anyhow::Result;

use crate::interrupt::Interrupt;
use crate::observe::Observers;
use crate::services::Services;
use crate::workspace::State;
use report::Report;
use steps::Check;

/// Runs every step, also after one that failed, and prints the table. Gives whether all was right.
pub fn run(
    state: &State,
    services: &Services,
    observers: Option<&Observers>,
    interrupt: &Interrupt,
) -> Result<bool> {
    println!("Checking the main job …");
    let mut check = Check::new(state, services)?;
    let mut report = Report::default();
    for step in steps::all() {
        interrupt.check()?;
        services.check()?;
        report.add(step.name, step.what, (step.run)(&mut check));
    }
    if let Some(observers) = observers {
        let what = "Prometheus and the collector see all of it";
        report.add("observe", what, observed::look(observers));
    }
    report.print();
    Ok(report.is_good())
}
