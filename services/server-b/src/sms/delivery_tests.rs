use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};

use super::*;

const MESSAGE_ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

fn body() -> String {
    format!(
        r#"{{"user_id": 7, "message_id": "{MESSAGE_ID}", "to": "+14155550123", "from": null,
            "body": "text", "encoding": "gsm7", "segments": 1,
            "submitted_at": "2026-11-22T10:00:00Z",
            "admission": {{"epoch": 1, "sequence": 2, "cache_age_ms": 3}}, "later": true}}"#
    )
}

fn delivery(event: &str, body: &str) -> Delivery {
    let empty = || "".into();
    let mut delivery = Delivery::mock(1, empty(), empty(), false, body.as_bytes().to_vec());
    delivery.properties = BasicProperties::default().with_type(event.into());
    delivery
}

#[test]
fn a_delivery_becomes_its_sms_whatever_its_amqp_message_id_says() {
    let delivery = delivery("sms.submitted", &body());
    let sms = read(&delivery).expect("a good delivery");
    assert_eq!(sms.envelope.message_id.to_string(), MESSAGE_ID);
    assert_eq!(sms.envelope.user_id, 7);
}

#[test]
fn a_delivery_of_another_type_is_poison() {
    for event in ["", "sms.recalled"] {
        let reason = read(&delivery(event, &body())).expect_err("poison");
        assert_eq!(reason.label(), "unknown_type");
    }
}

#[test]
fn a_malformed_delivery_is_poison_and_its_reason_quotes_nothing_of_it() {
    let secret = body().replace("\"segments\": 1", "\"segments\": \"hunter2\"");
    let reason = read(&delivery("sms.submitted", &secret)).expect_err("poison");
    assert_eq!(reason.label(), "malformed");
    let text = reason.to_string();
    assert!(
        !text.contains("hunter2") && !text.contains("+1415"),
        "{text}"
    );
}

#[test]
fn a_trace_header_is_kept_and_one_that_the_database_would_refuse_is_dropped() {
    let trace_of = |traceparent: &str| {
        let mut headers = FieldTable::default();
        let value = AMQPValue::LongString(traceparent.into());
        headers.insert("traceparent".into(), value);
        let mut delivery = delivery("sms.submitted", &body());
        delivery.properties = delivery.properties.clone().with_headers(headers);
        let sms = read(&delivery).expect("a good delivery");
        sms.trace.traceparent
    };
    let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    assert_eq!(trace_of(good).as_deref(), Some(good));
    assert_eq!(trace_of("00-\0"), None);
}
