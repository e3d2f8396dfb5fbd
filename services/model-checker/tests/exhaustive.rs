//! Every run within the bounds keeps every property.

use std::time::{Duration, Instant};

use model_checker::{Bounds, System};
use stateright::{Checker, Model};

#[expect(clippy::needless_pass_by_value, reason = "each test makes its own")]
fn explore(name: &str, bounds: Bounds) {
    let started = Instant::now();
    let checker = System(bounds.clone())
        .checker()
        .threads(2)
        .timeout(Duration::from_secs(120))
        .spawn_bfs()
        .join();
    println!(
        "{name}: {} states, {} unique, depth {}, {:.1} s",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
        started.elapsed().as_secs_f64()
    );
    for (property, path) in checker.discoveries() {
        if property != "the replica proves all writes" {
            println!("{property}:");
            for action in path.into_actions() {
                println!("  {action:?}");
            }
        }
    }
    checker.assert_properties();
}

#[test]
fn first_connection_under_writes() {
    explore(
        "first connection",
        Bounds {
            writes: 2,
            bookmarks: 1,
            ..Bounds::default()
        },
    );
}
