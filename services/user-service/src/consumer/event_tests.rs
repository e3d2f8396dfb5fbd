use serde_json::{Value, json};
use time::macros::datetime;

use super::*;

fn event(field: &str, value: Value) -> Result<NewReference, DeadReason> {
    let mut event = json!({
        "event_type": "UserCreated", "user_id": 123, "username": "johndoe",
        "email": "john@example.com", "timestamp": 1_234_567_890.123
    });
    event[field] = value;
    read(event.to_string().as_bytes())
}

fn reason(field: &str, value: Value) -> (&'static str, String) {
    let reason = event(field, value).expect_err("must be refused");
    (reason.label(), reason.to_string())
}

#[test]
fn the_requirements_example_becomes_a_reference() {
    let reference = event("unknown_field", json!(null)).expect("acceptable");
    assert_eq!(reference.user_id, 123);
    assert_eq!(reference.username, "johndoe");
    assert_eq!(reference.email, "john@example.com");
    assert_eq!(
        reference.occurred_at,
        datetime!(2009-02-13 23:31:30.123 UTC)
    );
}

#[test]
fn whole_seconds_and_the_epoch_itself_are_times() {
    let at = |seconds: Value| event("timestamp", seconds).expect("acceptable").occurred_at;
    assert_eq!(at(json!(0)), OffsetDateTime::UNIX_EPOCH);
    assert_eq!(at(json!(1_700_000_000)), datetime!(2023-11-14 22:13:20 UTC));
}

#[test]
fn a_timestamp_that_is_not_in_seconds_is_an_invalid_field() {
    for seconds in [-1.0, -1e300, 4_102_444_800.0, 1_700_000_000_000.0, 1e300] {
        let (label, text) = reason("timestamp", json!(seconds));
        assert_eq!(label, "invalid_field", "{seconds}");
        assert!(text.contains("timestamp"), "{text}");
    }
    for seconds in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert!(time_of(seconds).is_err(), "{seconds}");
    }
}

#[test]
fn texts_that_the_table_cannot_hold_are_invalid_fields() {
    for (field, value) in [
        ("username", "u".repeat(256)),
        ("username", String::new()),
        ("username", "a\0b".to_owned()),
        ("email", "e".repeat(321)),
        ("email", "\0".to_owned()),
    ] {
        let (label, text) = reason(field, json!(value));
        assert_eq!(label, "invalid_field");
        assert!(text.contains(field), "{text}");
    }
}

#[test]
fn limits_count_characters_and_the_address_may_be_empty() {
    assert!(event("username", json!("ü".repeat(255))).is_ok());
    assert!(event("email", json!("")).is_ok());
}

#[test]
fn another_type_is_named_even_when_its_fields_are_others() {
    assert_eq!(reason("event_type", json!("UserDeleted")).0, "unknown_type");
    let other = read(br#"{"event_type": "UserRenamed", "id": 1}"#).expect_err("unknown");
    assert_eq!(other.label(), "unknown_type");
}

#[test]
fn a_body_that_is_no_event_is_malformed_and_not_quoted() {
    for body in ["", "canary", "[]", "{}", r#"{"event_type": 5}"#, "\u{fffd}"] {
        let reason = read(body.as_bytes()).expect_err("no event");
        assert_eq!(reason.label(), "malformed", "{body}");
        assert!(!reason.to_string().contains("canary"));
    }
    for (field, value) in [
        ("user_id", json!("123")),
        ("user_id", json!(1.5)),
        ("email", json!(null)),
        ("timestamp", json!("now")),
    ] {
        assert_eq!(reason(field, value).0, "malformed", "{field}");
    }
    assert_eq!(read(b"\xff\xfe").expect_err("no text").label(), "malformed");
}
