//! Each rule inside `CacheState::apply` is needed: without it the model finds a counterexample.
#![cfg(feature = "rules")]

mod support;

use model_checker::Bounds;
use server_a::cache::Rule;
use support::{synced, without};

fn inside(rule: Rule, mut bounds: Bounds) {
    bounds.cache_without = Some(rule);
    without(&format!("{rule:?}"), bounds);
}

macro_rules! rule {
    ($name:ident, $rule:ident, $bounds:expr) => {
        #[test]
        fn $name() {
            inside(Rule::$rule, $bounds);
        }
    };
}

/// Snapshots and a full sync, under writes.
fn side_by_side() -> Bounds {
    Bounds {
        extra_snapshots: 1,
        syncs: 1,
        bookmarks: 0,
        ..synced()
    }
}

fn reconnecting() -> Bounds {
    Bounds {
        disconnects: 1,
        zombies: 1,
        ..synced()
    }
}

fn overflowing() -> Bounds {
    Bounds {
        overflows: 1,
        extra_snapshots: 1,
        ..synced()
    }
}

rule!(the_higher_version_wins, HigherVersionWins, side_by_side());
rule!(
    a_number_counts_once,
    NumbersOnce,
    Bounds {
        zombies: 1,
        ..synced()
    }
);
rule!(
    entries_touched_since_the_start_are_compared,
    TouchedEntriesAreCompared,
    side_by_side()
);
rule!(
    untouched_entries_are_replaced,
    UntouchedEntriesAreReplaced,
    Bounds {
        restores: 1,
        silent_restore: true,
        snapshots_at_most: 3,
        bookmarks: 0,
        ..synced()
    }
);
rule!(
    rows_read_before_a_completed_source_are_not_news,
    OldReadsAreNotNews,
    side_by_side()
);
rule!(a_completed_source_sweeps, Sweep, reconnecting());
rule!(
    it_sweeps_what_is_known_only_from_before_its_position,
    SweepByPosition,
    reconnecting()
);
rule!(deletes_leave_tombstones, Tombstones, side_by_side());
rule!(
    keys_follow_versions,
    KeysFollowVersions,
    Bounds {
        users_before: 2,
        keys: 3,
        ..side_by_side()
    }
);
rule!(keys_are_released, KeysAreReleased, synced());
rule!(
    a_gap_needs_a_source_that_started_later,
    SourceAfterGap,
    overflowing()
);
rule!(
    the_stream_joins_the_source,
    StreamJoinsSource,
    Bounds {
        overflows: 1,
        ..Bounds::default()
    }
);
rule!(
    nothing_is_proven_while_a_source_is_under_way,
    NoProofUnderWay,
    Bounds {
        extra_snapshots: 1,
        ..synced()
    }
);
rule!(
    nothing_is_compared_while_a_snapshot_is_needed,
    NoProofInNeed,
    Bounds {
        extra_snapshots: 1,
        cuts: 1,
        writes: 1,
        ..synced()
    }
);
rule!(a_bookmark_ahead_is_a_gap, BookmarkAheadIsGap, overflowing());
rule!(
    digests_that_differ_ask_for_a_snapshot,
    MismatchAsks,
    Bounds {
        restores: 1,
        silent_restore: true,
        bookmarks: 0,
        ..synced()
    }
);
