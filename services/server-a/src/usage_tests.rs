use time::macros::datetime;
use wire_contract::UsageEntry;

use super::*;

const NOW: OffsetDateTime = datetime!(2026-03-01 23:00:00 UTC);
const ANN: UserId = 1;

fn told(usage: &Usage, day: &str, segments: u32) -> bool {
    let users = vec![UsageEntry {
        user_id: ANN,
        segments,
    }];
    let day = day.to_owned();
    usage.take(&SmsUsage { day, users }, NOW)
}

fn accept(usage: &Usage, quota: i32, segments: u16) -> Result<u32, u32> {
    match usage.charge(ANN, quota, segments, NOW) {
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
fn what_server_b_never_tells_of_although_it_speaks_stops_counting() {
    let usage = Usage::default();
    assert_eq!(accept(&usage, 10, 10), Ok(0));
    // Server B is silent as a whole: what was accepted here may still wait for it, for hours.
    assert_eq!(accept(&usage, 10, 1), Err(0));
    let spoke = |after: Duration| {
        let mut today = usage.today.lock();
        let since = today.users[&ANN].since;
        today.heard = Some(since + after);
    };
    spoke(UNANSWERED);
    assert_eq!(accept(&usage, 10, 1), Err(0));
    spoke(UNANSWERED + Duration::from_millis(1));
    assert_eq!(accept(&usage, 10, 1), Ok(9));
}
