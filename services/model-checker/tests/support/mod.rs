//! Runs that do without a rule.

use std::time::{Duration, Instant};

use model_checker::{Bounds, System};
use stateright::{Checker, HasDiscoveries, Model};

/// Explores until a property is broken, and prints the shortest way there.
pub fn without(rule: &str, bounds: Bounds) {
    let started = Instant::now();
    let system = System(bounds);
    let vital: std::collections::BTreeSet<&'static str> = system
        .properties()
        .iter()
        .map(|property| property.name)
        .filter(|name| *name != model_checker::model::REACHED)
        .collect();
    let checker = system
        .checker()
        .threads(2)
        .finish_when(HasDiscoveries::AnyOf(vital.clone()))
        .timeout(Duration::from_mins(1))
        .spawn_bfs()
        .join();
    let found = checker
        .discoveries()
        .into_iter()
        .find(|(name, _)| vital.contains(name));
    let states = checker.unique_state_count();
    let seconds = started.elapsed().as_secs_f64();
    let Some((property, path)) = found else {
        panic!("without {rule}: nothing goes wrong in {states} states, {seconds:.1} s");
    };
    println!("without {rule}: not \"{property}\", {states} states, {seconds:.1} s");
    for action in path.into_actions() {
        println!("  {action:?}");
    }
}

/// A replica in step.
pub fn synced() -> Bounds {
    Bounds {
        synced_before: true,
        bookmarks: 1,
        ..Bounds::default()
    }
}
