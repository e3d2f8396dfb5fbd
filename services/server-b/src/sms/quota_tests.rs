use time::macros::datetime;
use wire_contract::{Admission, Encoding, SmsEnvelope};

use super::*;

fn sms(id: u128, segments: u16, hash: Option<&str>) -> ReceivedSms {
    ReceivedSms {
        envelope: SmsEnvelope {
            user_id: 7,
            message_id: Uuid::from_u128(id),
            to: "+14155550123".to_owned(),
            from: None,
            body: "text".to_owned(),
            encoding: Encoding::Gsm7,
            segments,
            submitted_at: datetime!(2026-01-02 03:04 UTC),
            admission: Admission {
                epoch: 1,
                sequence: 1,
                cache_age_ms: 0,
            },
            expires_at: None,
            client_reference: None,
            key_digest: None,
            request_hash: hash.map(str::to_owned),
        },
        trace: service_runtime::trace::TraceContext::default(),
    }
}

fn ledger(used: i64, quota: Option<i64>) -> Ledger {
    let day = datetime!(2026-01-02 03:04 UTC).date();
    Ledger {
        known: HashMap::new(),
        accounts: HashMap::from([((day, 7), (used, quota))]),
    }
}

fn refused(plan: &Plan<'_>) -> Vec<bool> {
    plan.rows.iter().map(|row| row.over_quota).collect()
}

#[test]
fn the_quota_is_filled_to_the_last_segment_and_not_beyond() {
    let (first, second, third) = (sms(1, 2, None), sms(2, 2, None), sms(3, 1, None));
    let plan = plan(&[&first, &second, &third], ledger(0, Some(3)));
    // The second does not fit, the third still does.
    assert_eq!(refused(&plan), [false, true, false]);
}

#[test]
fn a_quota_of_zero_admits_nothing() {
    let first = sms(1, 1, None);
    assert_eq!(refused(&plan(&[&first], ledger(0, Some(0)))), [true]);
}

#[test]
fn a_user_that_is_gone_has_no_quota_to_exceed() {
    let first = sms(1, 9, None);
    assert_eq!(refused(&plan(&[&first], ledger(0, None))), [false]);
}

#[test]
fn what_comes_twice_is_charged_once() {
    let (first, again, other) = (sms(1, 2, None), sms(1, 2, None), sms(2, 1, None));
    let plan = plan(&[&first, &again, &other], ledger(0, Some(3)));
    assert_eq!(refused(&plan), [false, false]);
}

#[test]
fn what_has_its_row_is_neither_stored_nor_charged() {
    let (first, other) = (sms(1, 3, None), sms(2, 3, None));
    let mut ledger = ledger(0, Some(3));
    ledger.known.insert(Uuid::from_u128(1), None);
    let plan = plan(&[&first, &other], ledger);
    assert_eq!(refused(&plan), [false]);
    assert_eq!(plan.rows[0].sms.envelope.message_id, Uuid::from_u128(2));
}

#[test]
fn another_content_under_a_known_id_is_a_conflict_and_the_same_is_not() {
    let (first, same, other) = (
        sms(1, 1, Some("a")),
        sms(1, 1, Some("a")),
        sms(1, 1, Some("b")),
    );
    let within = plan(&[&first, &same, &other], ledger(0, Some(9)));
    assert_eq!(within.rows.len(), 1);
    assert_eq!(within.rows[0].conflicts, 1);

    let mut later = ledger(0, Some(9));
    later.known.insert(Uuid::from_u128(1), Some("a".to_owned()));
    let later = plan(&[&same, &other, &other], later);
    assert!(later.rows.is_empty());
    assert_eq!(later.conflicts[&Uuid::from_u128(1)], 2);
    assert_eq!(later.conflict_count(), 2);
}

#[test]
fn without_a_hash_there_is_no_conflict() {
    let (first, other) = (sms(1, 1, None), sms(1, 1, Some("b")));
    let plan = plan(&[&first, &other], ledger(0, Some(9)));
    assert_eq!(plan.conflict_count(), 0);
}

#[test]
fn the_day_is_that_of_utc() {
    assert_eq!(
        day_of(datetime!(2026-01-02 01:00 +02:00)),
        datetime!(2026-01-01 00:00 UTC).date()
    );
    // Its UTC form is beyond the last year: no panic.
    let _ = day_of(datetime!(9999-12-31 23:00 -05:00));
}
