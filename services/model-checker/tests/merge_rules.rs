//! Each rule inside `CacheState::apply` is needed: without it the model finds a counterexample.
#![cfg(feature = "rules")]

mod support;

use model_checker::Bounds;
use model_checker::model::property;
use server_a::cache::Rule;
use support::{synced, without};

#[track_caller]
fn inside(rule: Rule, property: &'static str, mut bounds: Bounds) {
    bounds.cache_without = Some(rule);
    without(&format!("{rule:?}"), property, bounds);
}

macro_rules! rule {
    ($name:ident, $rule:ident, $property:ident, $bounds:expr) => {
        #[test]
        fn $name() {
            inside(Rule::$rule, property::$property, $bounds);
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

rule!(
    the_higher_version_wins,
    HigherVersionWins,
    IN_FORCE,
    side_by_side()
);
rule!(
    a_number_counts_once,
    NumbersOnce,
    GAP,
    Bounds {
        zombies: 1,
        ..synced()
    }
);
rule!(
    a_number_that_was_applied_before_the_subscription_does_not_count,
    AppliedNumbersOnce,
    IN_FORCE,
    Bounds {
        bookmarks: 0,
        ..reconnecting()
    }
);
rule!(
    entries_touched_since_the_start_are_compared,
    TouchedEntriesAreCompared,
    IN_FORCE,
    side_by_side()
);
rule!(
    untouched_entries_are_replaced,
    UntouchedEntriesAreReplaced,
    CONVERGES,
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
    IN_FORCE,
    side_by_side()
);
rule!(a_completed_source_sweeps, Sweep, IN_FORCE, reconnecting());
rule!(
    it_sweeps_what_is_known_only_from_before_its_position,
    SweepByPosition,
    IN_FORCE,
    reconnecting()
);
rule!(
    deletes_leave_tombstones,
    Tombstones,
    IN_FORCE,
    side_by_side()
);
rule!(
    keys_follow_versions,
    KeysFollowVersions,
    IN_FORCE,
    Bounds {
        users_before: 2,
        keys: 3,
        ..side_by_side()
    }
);
rule!(keys_are_released, KeysAreReleased, IN_FORCE, synced());
rule!(
    a_gap_needs_a_source_that_started_later,
    SourceAfterGap,
    IN_FORCE,
    overflowing()
);
rule!(
    the_stream_joins_the_source,
    StreamJoinsSource,
    IN_FORCE,
    Bounds {
        overflows: 1,
        ..Bounds::default()
    }
);
rule!(
    nothing_is_proven_while_a_source_is_under_way,
    NoProofUnderWay,
    MISMATCH,
    Bounds {
        extra_snapshots: 1,
        ..synced()
    }
);
rule!(
    nothing_is_compared_while_a_snapshot_is_needed,
    NoProofInNeed,
    MISMATCH,
    Bounds {
        extra_snapshots: 1,
        cuts: 1,
        writes: 1,
        ..synced()
    }
);
rule!(
    a_bookmark_is_compared_only_where_it_is_reached,
    ComparedWhereReached,
    MISMATCH,
    Bounds {
        zombies: 1,
        slow_bookmarks: true,
        ..synced()
    }
);
rule!(
    a_bookmark_ahead_is_a_gap,
    BookmarkAheadIsGap,
    CONVERGES,
    overflowing()
);
rule!(
    digests_that_differ_ask_for_a_snapshot,
    MismatchAsks,
    CONVERGES,
    Bounds {
        restores: 1,
        silent_restore: true,
        bookmarks: 0,
        ..synced()
    }
);

rule!(
    a_higher_epoch_is_newer_whatever_the_versions,
    EpochsBeforeVersions,
    IN_FORCE,
    Bounds {
        restores: 1,
        extra_snapshots: 1,
        bookmarks: 0,
        ..synced()
    }
);
rule!(
    a_fresh_subscription_knows_of_no_source,
    SubscribedForgetsSources,
    CONVERGES,
    Bounds {
        extra_snapshots: 1,
        disconnects: 1,
        writes: 1,
        time_out: false,
        ..synced()
    }
);
rule!(
    what_a_source_says_after_its_end_is_not_obeyed,
    EndedSourcesAreOver,
    IN_FORCE,
    Bounds {
        syncs: 1,
        zombie_syncs: 1,
        writes: 1,
        bookmarks: 0,
        ..synced()
    }
);
rule!(
    a_source_that_server_b_gave_up_is_given_up,
    AbortedSourcesAreGivenUp,
    CONVERGES,
    aborted()
);

/// Nobody waits for a time-out.
fn aborted() -> Bounds {
    Bounds {
        syncs: 1,
        aborts: 2,
        writes: 1,
        time_out: false,
        ..synced()
    }
}
