//! Every run within the bounds keeps every property.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use model_checker::{Bounds, System};
use stateright::{Checker, Model};

/// Each takes two cores, and has a limit of time.
static ALONE: Mutex<()> = Mutex::new(());

/// With `MODEL_BOUNDS=full` one write more.
fn explore(name: &str, mut bounds: Bounds) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let started = Instant::now();
    let full = std::env::var("MODEL_BOUNDS").as_deref() == Ok("full");
    bounds.writes += u8::from(full);
    let limit = Duration::from_secs(if full { 3_600 } else { 120 });
    let checker = System(bounds)
        .checker()
        .threads(2)
        .timeout(limit)
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
        if property != model_checker::model::REACHED {
            println!("{property}:");
            for action in path.into_actions() {
                println!("  {action:?}");
            }
        }
    }
    checker.assert_properties();
    assert!(started.elapsed() < limit, "{name}: not explored to the end");
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

#[test]
fn replicas_reconnect_and_overflow() {
    explore(
        "reconnect and overflow",
        Bounds {
            synced_before: true,
            writes: 2,
            bookmarks: 1,
            disconnects: 1,
            overflows: 1,
            ..Bounds::default()
        },
    );
}

#[test]
fn relay_crashes_and_confirms_are_lost() {
    explore(
        "relay crash and lost confirm",
        Bounds {
            synced_before: true,
            writes: 2,
            crashes: 1,
            losses: 1,
            bookmarks: 1,
            batch: 2,
            ..Bounds::default()
        },
    );
}

#[test]
fn a_zombie_leads_on() {
    explore(
        "zombie",
        Bounds {
            synced_before: true,
            writes: 2,
            zombies: 1,
            bookmarks: 1,
            disconnects: 1,
            ..Bounds::default()
        },
    );
}

#[test]
fn transactions_overlap_and_the_backlog_is_coalesced() {
    explore(
        "open transactions and coalescing",
        Bounds {
            synced_before: true,
            users_before: 2,
            keys: 3,
            writes: 3,
            open_transactions: true,
            coalesces: 1,
            batch: 1,
            bookmarks: 1,
            ..Bounds::default()
        },
    );
}

#[test]
fn a_leader_dies_in_a_coalesced_backlog() {
    explore(
        "relay crash in a coalesced backlog",
        Bounds {
            synced_before: true,
            users_before: 2,
            keys: 3,
            writes: 3,
            coalesces: 1,
            crashes: 1,
            batch: 1,
            bookmarks: 1,
            ..Bounds::default()
        },
    );
}

#[test]
fn the_next_batch_is_numbered_while_one_is_published() {
    explore(
        "numbered ahead, lost confirm and zombie",
        Bounds {
            synced_before: true,
            users_before: 2,
            writes: 2,
            losses: 1,
            zombies: 1,
            batch: 1,
            bookmarks: 1,
            ..Bounds::default()
        },
    );
}

#[test]
fn the_broker_refuses_one_message_and_takes_a_later_one() {
    explore(
        "hole in the confirms",
        Bounds {
            synced_before: true,
            writes: 2,
            losses: 1,
            nacks: true,
            overflows: 1,
            batch: 2,
            bookmarks: 1,
            ..Bounds::default()
        },
    );
}

#[test]
fn bookmarks_are_slow() {
    explore(
        "slow bookmarks",
        Bounds {
            synced_before: true,
            writes: 2,
            zombies: 1,
            extra_snapshots: 1,
            bookmarks: 1,
            slow_bookmarks: true,
            ..Bounds::default()
        },
    );
}

#[test]
fn snapshots_side_by_side() {
    explore(
        "snapshots side by side",
        Bounds {
            writes: 2,
            extra_snapshots: 1,
            ..Bounds::default()
        },
    );
}

#[test]
fn a_snapshot_and_a_full_sync_side_by_side() {
    explore(
        "snapshot and full sync",
        Bounds {
            synced_before: true,
            writes: 2,
            syncs: 1,
            extra_snapshots: 1,
            ..Bounds::default()
        },
    );
}

#[test]
fn snapshots_are_cut_and_given_up() {
    explore(
        "cut snapshots",
        Bounds {
            synced_before: true,
            writes: 1,
            extra_snapshots: 1,
            cuts: 1,
            impatience: 1,
            bookmarks: 1,
            ..Bounds::default()
        },
    );
}

#[test]
fn sources_that_server_b_gives_up_are_not_waited_for() {
    explore(
        "aborted sources, no time-out",
        Bounds {
            synced_before: true,
            writes: 1,
            extra_snapshots: 1,
            syncs: 1,
            aborts: 2,
            time_out: false,
            ..Bounds::default()
        },
    );
}

#[test]
fn statements_change_a_user_twice() {
    explore(
        "nested writes",
        Bounds {
            synced_before: true,
            keys: 3,
            writes: 2,
            nested_writes: true,
            coalesces: 1,
            extra_snapshots: 1,
            batch: 1,
            bookmarks: 1,
            ..Bounds::default()
        },
    );
}

#[test]
fn a_full_sync_amid_zombies_and_crashes_of_the_relay() {
    explore(
        "full sync, zombie and crash",
        Bounds {
            synced_before: true,
            writes: 1,
            syncs: 1,
            zombies: 1,
            crashes: 1,
            ..Bounds::default()
        },
    );
}

#[test]
fn a_full_sync_amid_overflow_and_disconnect() {
    explore(
        "full sync, overflow and disconnect",
        Bounds {
            synced_before: true,
            writes: 1,
            syncs: 1,
            overflows: 1,
            disconnects: 1,
            ..Bounds::default()
        },
    );
}

#[test]
fn a_full_sync_that_two_servers_run() {
    explore(
        "zombie of a full sync",
        Bounds {
            synced_before: true,
            writes: 2,
            syncs: 1,
            zombie_syncs: 1,
            ..Bounds::default()
        },
    );
}

#[test]
fn the_database_is_restored_amid_overflow_and_disconnect() {
    explore(
        "restore, overflow and disconnect",
        Bounds {
            synced_before: true,
            writes: 1,
            restores: 1,
            overflows: 1,
            disconnects: 1,
            ..Bounds::default()
        },
    );
}

#[test]
fn full_syncs_are_cut_and_fail() {
    explore(
        "cut full syncs",
        Bounds {
            synced_before: true,
            writes: 1,
            syncs: 1,
            cuts: 1,
            aborts: 1,
            bookmarks: 1,
            ..Bounds::default()
        },
    );
}

#[test]
fn the_database_is_restored() {
    explore(
        "restore",
        Bounds {
            synced_before: true,
            writes: 3,
            restores: 1,
            ..Bounds::default()
        },
    );
}

#[test]
fn a_restore_shows_only_in_a_report() {
    explore(
        "silent restore",
        Bounds {
            synced_before: true,
            writes: 3,
            restores: 1,
            silent_restore: true,
            ..Bounds::default()
        },
    );
}

/// A repetition may get to another server B, which knows nothing of the round and would read the table once more.
#[test]
fn a_request_is_repeated_only_when_its_round_has_begun() {
    assert!(server_a::sync::FIRST_RETRY > server_b::snapshot::GATHER_AT_MOST);
}
