//! Each rule of the design is needed: without it the model finds a counterexample.

mod support;

use model_checker::model::property;
use model_checker::{Bounds, Rule};
use support::{synced, without};

#[track_caller]
fn around(rule: Rule, property: &'static str, mut bounds: Bounds) {
    bounds.without = Some(rule);
    without(&format!("{rule:?}"), property, bounds);
}

#[test]
fn numbering_is_fenced() {
    around(
        Rule::NumberingIsFenced,
        property::GAP,
        Bounds {
            zombies: 1,
            ..synced()
        },
    );
}

#[test]
fn a_bookmark_is_fenced() {
    around(
        Rule::BookmarkIsFenced,
        property::GAP,
        Bounds {
            zombies: 1,
            ..synced()
        },
    );
}

#[test]
fn numbered_rows_are_published_again() {
    around(
        Rule::Republish,
        property::GAP,
        Bounds {
            crashes: 1,
            ..synced()
        },
    );
}

#[test]
fn numbers_are_kept() {
    around(
        Rule::NumbersAreKept,
        property::IN_FORCE,
        Bounds {
            crashes: 1,
            writes: 3,
            ..synced()
        },
    );
}

#[test]
fn only_confirmed_rows_are_deleted() {
    around(
        Rule::DeleteOnlyConfirmed,
        property::GAP,
        Bounds {
            losses: 1,
            ..synced()
        },
    );
}

#[test]
fn a_deleted_row_is_named_by_its_number() {
    around(
        Rule::DeleteNamesTheNumber,
        property::CONVERGES,
        Bounds {
            restores: 1,
            ..synced()
        },
    );
}

#[test]
fn coalescing_keeps_the_first_old_image() {
    around(Rule::CoalescingKeepsOldImage, property::DIGEST, synced());
}

#[test]
fn coalescing_keeps_the_first_transaction() {
    around(
        Rule::CoalescingKeepsTransaction,
        property::MISMATCH,
        Bounds {
            coalesces: 1,
            extra_snapshots: 1,
            ..synced()
        },
    );
}

#[test]
fn start_is_confirmed_before_the_read() {
    around(Rule::StartBeforeRead, property::IN_FORCE, Bounds::default());
}

#[test]
fn position_and_rows_are_of_one_transaction() {
    around(
        Rule::OneTransactionRead,
        property::IN_FORCE,
        Bounds {
            extra_snapshots: 1,
            ..Bounds::default()
        },
    );
}

#[test]
fn digests_are_compared_only_from_where_they_can_be() {
    around(
        Rule::ComparableFrom,
        property::MISMATCH,
        synced_with_extra(),
    );
}

#[test]
fn no_digest_is_compared_in_a_backlog() {
    around(
        Rule::NoDigestInBacklog,
        property::MISMATCH,
        Bounds {
            users_before: 2,
            keys: 3,
            writes: 3,
            coalesces: 1,
            batch: 1,
            ..synced()
        },
    );
}

#[test]
fn a_new_leader_assumes_a_backlog() {
    around(
        Rule::NewLeaderAssumesABacklog,
        property::MISMATCH,
        Bounds {
            users_before: 2,
            keys: 3,
            writes: 3,
            coalesces: 1,
            crashes: 1,
            batch: 1,
            ..synced()
        },
    );
}

#[test]
fn a_gap_is_noticed() {
    around(
        Rule::GapIsNoticed,
        property::IN_FORCE,
        Bounds {
            overflows: 1,
            ..synced()
        },
    );
}

#[test]
fn rows_are_obeyed_only_of_a_source_whose_start_was_seen() {
    around(
        Rule::StartWasSeen,
        property::IN_FORCE,
        Bounds {
            syncs: 1,
            disconnects: 1,
            ..synced()
        },
    );
}

#[test]
fn nothing_is_swept_by_rows_that_do_not_add_up() {
    around(
        Rule::RowsAddUp,
        property::SWEEP,
        Bounds {
            overflows: 1,
            extra_snapshots: 1,
            writes: 0,
            ..synced()
        },
    );
}

#[test]
fn a_dead_source_is_given_up() {
    around(
        Rule::DeadSourceIsGivenUp,
        property::CONVERGES,
        Bounds {
            extra_snapshots: 1,
            cuts: 1,
            writes: 0,
            ..synced()
        },
    );
}

#[test]
fn a_restore_begins_an_epoch() {
    around(
        Rule::RestoreBeginsEpoch,
        property::IN_FORCE,
        Bounds {
            restores: 1,
            ..synced()
        },
    );
}

fn synced_with_extra() -> Bounds {
    Bounds {
        extra_snapshots: 1,
        ..synced()
    }
}

#[test]
fn a_report_tells_the_last_number_seen() {
    around(
        Rule::ReportTellsWhatWasSeen,
        property::CONVERGES,
        Bounds {
            writes: 1,
            restores: 1,
            silent_restore: true,
            snapshots_at_most: 4,
            ..Bounds::default()
        },
    );
}

#[test]
fn numbers_are_given_in_the_order_of_commits() {
    around(
        Rule::NumbersFollowCommits,
        property::CONVERGES,
        Bounds {
            open_transactions: true,
            bookmarks: 0,
            ..synced()
        },
    );
}

#[test]
fn count_and_digest_are_stored_with_the_numbers() {
    around(
        Rule::DigestWithNumbers,
        property::MISMATCH,
        Bounds {
            crashes: 1,
            ..synced()
        },
    );
}

#[test]
fn the_newest_change_of_a_user_is_told_by_its_version() {
    around(
        Rule::CoalescingFollowsVersions,
        property::IN_FORCE,
        Bounds {
            nested_writes: true,
            keys: 3,
            writes: 1,
            ..synced()
        },
    );
}

#[test]
fn a_late_request_never_joins_a_read() {
    around(
        Rule::LateNeverJoins,
        property::IN_FORCE,
        Bounds {
            extra_snapshots: 2,
            ..synced()
        },
    );
}

#[test]
fn each_run_of_a_full_sync_has_an_id_of_its_own() {
    around(
        Rule::RunsHaveIds,
        property::IN_FORCE,
        Bounds {
            syncs: 1,
            zombie_syncs: 1,
            bookmarks: 0,
            ..synced()
        },
    );
}

/// Nobody waits for a time-out.
#[test]
fn whoever_runs_a_full_sync_again_gives_the_run_before_up() {
    around(
        Rule::EarlierRunsAreGivenUp,
        property::CONVERGES,
        Bounds {
            syncs: 1,
            cuts: 1,
            writes: 1,
            bookmarks: 0,
            time_out: false,
            ..synced()
        },
    );
}
