//! Runs that do without a rule.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use model_checker::{Bounds, System};
use stateright::{Checker, HasDiscoveries, Model};

/// Explores until this property is broken, and prints the shortest way there.
#[track_caller]
pub fn without(rule: &str, property: &'static str, bounds: Bounds) {
    let started = Instant::now();
    let checker = System(bounds)
        .checker()
        .threads(2)
        .finish_when(HasDiscoveries::AnyOf(BTreeSet::from([property])))
        .timeout(Duration::from_mins(1))
        .spawn_bfs()
        .join();
    let states = checker.unique_state_count();
    let seconds = started.elapsed().as_secs_f64();
    let found = checker.discoveries();
    let Some(path) = found.get(property) else {
        let others: Vec<_> = found.keys().collect();
        panic!(
            "without {rule}: \"{property}\" holds in {states} states, {seconds:.1} s; {others:?}"
        );
    };
    println!("without {rule}: not \"{property}\", {states} states, {seconds:.1} s");
    for action in path.clone().into_actions() {
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
