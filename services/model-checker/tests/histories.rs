//! Long random runs: shuffled, duplicated, truncated histories with snapshots and full syncs side by side, lost
//! subscriptions, overflows, crashes, zombies and a restore. 3,000 of them; 100,000 with `MODEL_CASES=full`.

use model_checker::model::{Left, REACHED, State};
use model_checker::{Bounds, System};
use proptest::prelude::*;
use stateright::Model;

fn cases() -> u32 {
    match std::env::var("MODEL_CASES").as_deref() {
        Ok("full") => 100_000,
        _ => 3_000,
    }
}

fn bounds() -> Bounds {
    Bounds {
        users_before: 2,
        users: 5,
        keys: 5,
        writes: 12,
        open_transactions: true,
        nested_writes: true,
        batch: 3,
        coalesces: 2,
        crashes: 2,
        zombies: 1,
        losses: 2,
        nacks: true,
        overflows: 2,
        disconnects: 2,
        extra_snapshots: 3,
        syncs: 2,
        cuts: 2,
        aborts: 2,
        impatience: 1,
        bookmarks: 8,
        restores: 1,
        snapshots_at_most: 40,
        ..Bounds::default()
    }
}

fn holds(system: &System, state: &State, done: &[String]) -> Result<(), TestCaseError> {
    for property in system.properties() {
        prop_assert!(
            property.name == REACHED || (property.condition)(system, state),
            "not \"{}\" after {:#?}",
            property.name,
            done
        );
    }
    Ok(())
}

/// Takes the step that `choice` names; `None` when nothing is left to do.
fn step(system: &System, state: &State, choice: u16, done: &mut Vec<String>) -> Option<State> {
    let mut actions = Vec::new();
    system.actions(state, &mut actions);
    if actions.is_empty() {
        return None;
    }
    let first = usize::from(choice) % actions.len();
    actions.rotate_left(first);
    actions.into_iter().find_map(|action| {
        let next = system.next_state(state, action)?;
        done.push(format!("{action:?}"));
        Some(next)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_history_keeps_the_properties_and_ends_in_proof(
        choices in prop::collection::vec(any::<u16>(), 10..150),
        silent_restore in any::<bool>(),
    ) {
        let system = System(Bounds { silent_restore, ..bounds() });
        let mut state = system.init_states().remove(0);
        let mut done = Vec::new();
        for choice in &choices {
            let Some(next) = step(&system, &state, *choice, &mut done) else { break };
            state = next;
            holds(&system, &state, &done)?;
        }
        done.push("faults stop".to_owned());
        state.left = Left::default();
        state.backup = None;
        for choice in choices.iter().cycle().take(2_000) {
            if state.is_quiet() && state.replica.marked {
                break;
            }
            let Some(next) = step(&system, &state, *choice, &mut done) else { break };
            state = next;
            holds(&system, &state, &done)?;
        }
        prop_assert!(state.is_converged(5), "not converged after {done:#?}");
    }
}
