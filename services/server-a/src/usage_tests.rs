use time::macros::datetime;
use wire_contract::UsageEntry;

use super::*;

const NOW: OffsetDateTime = datetime!(2026-03-01 23:00:00 UTC);
const ANN: UserId = 1;

fn told(usage: &Usage, day: &str, segments: u32) -> bool {
    let day = day.to_owned();
    let users = vec![entry(ANN, segments, None)];
    usage.take(&SmsUsage { day, users }, NOW)
}

fn entry(user_id: UserId, segments: u32, stored_until: Option<OffsetDateTime>) -> UsageEntry {
    UsageEntry {
        user_id,
        segments,
        stored_until,
    }
}

/// Server B has stored up to this time.
fn stored(usage: &Usage, user_id: UserId, segments: u32, until: OffsetDateTime) {
    let day = "2026-03-01".to_owned();
    let users = vec![entry(user_id, segments, Some(until))];
    assert!(usage.take(&SmsUsage { day, users }, NOW));
}

fn accept(usage: &Usage, quota: i32, segments: u16) -> Result<u32, u32> {
    accept_at(usage, quota, segments, NOW)
}

fn accept_at(usage: &Usage, quota: i32, segments: u16, now: OffsetDateTime) -> Result<u32, u32> {
    match usage.charge(ANN, quota, segments, now) {
        Ok((charge, state)) => {
            charge.keep();
            Ok(state.left)
        }
        Err(state) => Err(state.left),
    }
}

#[test]
fn segments_are_let_in_up_to_the_quota_and_no_further() {
    let usage = Usage::default();
    assert_eq!(accept(&usage, 10, 4), Ok(6));
    assert_eq!(accept(&usage, 10, 7), Err(6));
    assert_eq!(accept(&usage, 10, 6), Ok(0));
    assert_eq!(accept(&usage, 10, 1), Err(0));
}

#[test]
fn a_quota_of_nothing_lets_nothing_in_and_one_of_the_most_does_not_overflow() {
    let usage = Usage::default();
    assert_eq!(accept(&usage, 0, 1), Err(0));
    assert!(told(&usage, "2026-03-01", u32::MAX));
    assert_eq!(accept(&usage, i32::MAX, 10), Err(0));
}

#[test]
fn a_broadcast_counts_in_place_of_what_was_accepted_here_before_it() {
    let usage = Usage::default();
    assert_eq!(accept(&usage, 10, 9), Ok(1));
    // Server B charged less: eight were repeats under one idempotency key.
    assert!(told(&usage, "2026-03-01", 1));
    assert_eq!(usage.left(ANN, 10, NOW).left, 9);
    assert_eq!(accept(&usage, 10, 9), Ok(0));
}

#[test]
fn an_older_broadcast_takes_nothing_back() {
    let usage = Usage::default();
    assert!(told(&usage, "2026-03-01", 8));
    assert!(told(&usage, "2026-03-01", 5));
    assert_eq!(usage.left(ANN, 10, NOW).left, 2);
}

#[test]
fn a_broadcast_of_another_day_or_none_is_ignored() {
    let usage = Usage::default();
    for day in ["2026-02-28", "2026-03-02", "today", ""] {
        assert!(!told(&usage, day, 10), "{day}");
    }
    assert_eq!(usage.left(ANN, 10, NOW).left, 10);
}

#[test]
fn what_was_not_queued_is_given_back_once() {
    let usage = Usage::default();
    let (charge, _) = usage.charge(ANN, 10, 3, NOW).expect("within the quota");
    assert_eq!(usage.left(ANN, 10, NOW).left, 7);
    drop(charge);
    assert_eq!(usage.left(ANN, 10, NOW).left, 10);

    let (charge, _) = usage.charge(ANN, 10, 3, NOW).expect("within the quota");
    assert!(told(&usage, "2026-03-01", 2));
    assert_eq!(accept(&usage, 10, 4), Ok(4));
    // The broadcast has replaced it: giving it back must not take away another's.
    drop(charge);
    assert_eq!(usage.left(ANN, 10, NOW).left, 4);
}

#[test]
fn a_new_day_begins_with_nothing_and_keeps_no_entries() {
    let usage = Usage::default();
    assert_eq!(accept(&usage, 10, 10), Ok(0));
    let (charge, _) = usage.charge(2, 10, 1, NOW).expect("within the quota");
    let tomorrow = datetime!(2026-03-02 00:00:00 UTC);
    assert_eq!(usage.left(ANN, 10, tomorrow).left, 10);
    assert_eq!(usage.age_and_users().1, 0);
    // Of the day before: nothing to give back.
    drop(charge);
    assert_eq!(usage.left(2, 10, tomorrow).left, 10);
}

#[test]
fn the_quota_resets_at_midnight_utc() {
    let usage = Usage::default();
    for (now, seconds) in [
        (datetime!(2026-03-01 00:00:00 UTC), 86_400),
        (datetime!(2026-03-01 23:00:00 UTC), 3_600),
        (datetime!(2026-03-01 23:59:59.9 UTC), 1),
    ] {
        assert_eq!(usage.left(ANN, 10, now).resets_in, seconds, "{now}");
    }
}

#[test]
fn a_fresh_subscription_forgets_what_a_lost_broadcast_may_have_answered() {
    let usage = Usage::default();
    assert!(told(&usage, "2026-03-01", 4));
    assert_eq!(accept(&usage, 10, 6), Ok(0));
    usage.subscribed();
    assert_eq!(usage.left(ANN, 10, NOW).left, 6);
}

#[test]
fn what_was_submitted_after_what_server_b_has_stored_still_counts() {
    let usage = Usage::default();
    let after = |seconds| NOW + Duration::from_secs(seconds);
    for seconds in 0..10 {
        let left = u32::try_from(9 - seconds).expect("small");
        assert_eq!(accept_at(&usage, 10, 1, after(seconds)), Ok(left));
    }
    // A backlog: the first four are stored, six wait in the queue.
    stored(&usage, ANN, 4, after(3));
    assert_eq!(accept_at(&usage, 10, 1, after(10)), Err(0));
    // One of them was a repeat, which is not charged.
    stored(&usage, ANN, 6, after(6));
    assert_eq!(accept_at(&usage, 10, 2, after(10)), Err(1));
    assert_eq!(accept_at(&usage, 10, 1, after(10)), Ok(0));
    stored(&usage, ANN, 10, after(10));
    assert_eq!(usage.left(ANN, 10, NOW).left, 0);
    // Not even memory.
    let pending = usage.today.lock().users[&ANN].pending.capacity();
    assert_eq!(pending, 0);
}

#[test]
fn however_much_is_accepted_while_server_b_is_away_it_takes_little_memory_and_all_counts() {
    let usage = Usage::default();
    for tenths in 0..10_000 {
        let now = NOW + Duration::from_millis(100 * tenths);
        accept_at(&usage, i32::MAX, 1, now).expect("within the quota");
    }
    let pending = usage.today.lock().users[&ANN].pending.len();
    assert_eq!(pending, MAX_PENDING);
    assert_eq!(usage.left(ANN, 10_001, NOW).left, 1);
    let last = NOW + Duration::from_millis(100 * 9_999);
    stored(&usage, ANN, 9_999, last - Duration::from_millis(1));
    // It errs on the side of the quota until the last of those counted together is stored.
    assert_eq!(usage.left(ANN, 10_001, NOW).left, 0);
    stored(&usage, ANN, 10_000, last);
    assert_eq!(usage.left(ANN, 10_001, NOW).left, 1);
}

#[test]
fn what_server_b_never_tells_of_although_it_stores_later_ones_stops_counting() {
    const BOB: UserId = 2;
    let usage = Usage::default();
    assert_eq!(accept(&usage, 10, 10), Ok(0));
    // Server B is silent as a whole, or behind: what was accepted here may still wait for it, for hours.
    assert_eq!(accept(&usage, 10, 1), Err(0));
    stored(&usage, BOB, 1, NOW + UNANSWERED);
    assert_eq!(accept(&usage, 10, 1), Err(0));
    // An older one does not bring it back.
    stored(&usage, BOB, 2, NOW + UNANSWERED + Duration::from_millis(1));
    stored(&usage, BOB, 3, NOW);
    // A dry run says what a send would be told.
    assert_eq!(usage.left(ANN, 10, NOW).left, 10);
    assert_eq!(accept(&usage, 10, 1), Ok(9));
}
