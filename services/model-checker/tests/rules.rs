//! Each rule of the design is needed: without it the model finds a counterexample.

mod support;

use model_checker::{Bounds, Rule};
use support::{synced, without};

fn around(rule: Rule, mut bounds: Bounds) {
    bounds.without = Some(rule);
    without(&format!("{rule:?}"), bounds);
}

#[test]
fn numbering_is_fenced() {
    around(
        Rule::NumberingIsFenced,
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
        Bounds {
            restores: 1,
            ..synced()
        },
    );
}

#[test]
fn coalescing_keeps_the_first_old_image() {
    around(Rule::CoalescingKeepsOldImage, synced());
}

#[test]
fn coalescing_keeps_the_first_transaction() {
    around(
        Rule::CoalescingKeepsTransaction,
        Bounds {
            coalesces: 1,
            extra_snapshots: 1,
            ..synced()
        },
    );
}

#[test]
fn start_is_confirmed_before_the_read() {
    around(Rule::StartBeforeRead, Bounds::default());
}

#[test]
fn position_and_rows_are_of_one_transaction() {
    around(
        Rule::OneTransactionRead,
        Bounds {
            extra_snapshots: 1,
            ..Bounds::default()
        },
    );
}

#[test]
fn digests_are_compared_only_from_where_they_can_be() {
    around(Rule::ComparableFrom, synced_with_extra());
}

#[test]
fn no_digest_is_compared_in_a_backlog() {
    around(
        Rule::NoDigestInBacklog,
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
        Bounds {
            syncs: 1,
            failed_syncs: 1,
            writes: 0,
            ..synced()
        },
    );
}

#[test]
fn a_restore_begins_an_epoch() {
    around(
        Rule::RestoreBeginsEpoch,
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
        Bounds {
            writes: 1,
            restores: 1,
            silent_restore: true,
            snapshots_at_most: 4,
            ..Bounds::default()
        },
    );
}
