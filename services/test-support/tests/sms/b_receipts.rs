//! Delivery receipts, in any order and any number.

use anyhow::ensure;
use serde_json::json;
use test_support::app::DEADLINE;
use test_support::eventually;

use super::b_gateway::{Behaviour, Gateway};
use super::b_world::World;

const STATE: &str = "SELECT status || coalesce(' ' || error_code, '') FROM sms_messages";

#[test]
fn a_receipt_ends_an_sms_and_a_repeated_one_changes_nothing() {
    let gateway = Gateway::start("first");
    let world = World::with_gateways(&[&gateway]);
    let user = world.user("alice", 10);
    world.send(user, 1);
    world.until(STATE, "sent");
    let report = |status: &str| {
        let answer = world.receipt("first", &json!({"id": "first-0", "status": status}));
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.body["outcome"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    assert_eq!(report("ENROUTE"), "ignored");
    assert_eq!(world.sql(STATE), "sent");
    assert_eq!(report("UNDELIV"), "applied");
    assert_eq!(world.sql(STATE), "undelivered absent_subscriber");
    assert_eq!(report("UNDELIV"), "repeated");
    // After all. Nothing comes after that.
    assert_eq!(report("DELIVRD"), "applied");
    assert_eq!(world.sql(STATE), "delivered");
    assert_eq!(report("DELIVRD"), "repeated");
    assert_eq!(report("UNDELIV"), "repeated");
    assert_eq!(world.sql(STATE), "delivered");
    assert_eq!(
        world.metric("identity_sms_receipts_total", "outcome=\"repeated\""),
        3
    );
}

#[test]
fn a_receipt_that_overtakes_the_answer_is_kept_for_it() {
    let gateway = Gateway::start("first");
    gateway.behave(Behaviour::HoldAnswer);
    let world = World::with_patience(&gateway);
    let user = world.user("alice", 10);
    world.send(user, 1);
    eventually(DEADLINE, "the SMS at the gateway", || {
        !gateway.asked().is_empty()
    });
    let receipt = json!({"id": "first-0", "status": "DELIVRD"});
    let answer = world.receipt("first", &receipt);
    assert_eq!(answer.body["outcome"], "kept", "{}", answer.text);
    assert_eq!(world.sql(STATE), "sending");
    gateway.behave(Behaviour::Accept);
    world.until(STATE, "delivered");
    let steps = "SELECT string_agg(step->>'status', ' ' ORDER BY n)
                 FROM sms_messages, jsonb_array_elements(history) WITH ORDINALITY AS steps (step, n)";
    assert_eq!(world.sql(steps), "sending sent delivered");
    assert_eq!(world.sql("SELECT count(*) FROM sms_receipts"), "0");
    assert_eq!(
        world.metric("identity_sms_receipts_total", "outcome=\"applied\""),
        1
    );
}

#[test]
fn a_receipt_of_an_unknown_sms_is_kept_for_a_day_and_then_counted() {
    let gateway = Gateway::start("first");
    let mut world = World::with_gateways(&[&gateway]);
    let unknown = json!({"id": "nobody", "status": "DELIVRD"});
    for _ in 0..2 {
        let answer = world.receipt("first", &unknown);
        assert_eq!(
            (answer.status, &answer.body["outcome"]),
            (200, &json!("kept"))
        );
    }
    assert_eq!(world.sql("SELECT count(*) FROM sms_receipts"), "1");
    let _ = world.sql("UPDATE sms_receipts SET received_at = now() - interval '25 h'");
    // Whoever starts looks at once, the others each minute.
    world.start_b();
    world.until("SELECT count(*) FROM sms_receipts", "0");
    eventually(DEADLINE, "it to be counted", || {
        world.metric("identity_sms_receipts_total", "outcome=\"unknown\"") == 1
    });
}

#[test]
fn a_receipt_that_nobody_looked_for_is_found_by_the_next_look() {
    let gateway = Gateway::start("first");
    let mut world = World::with_gateways(&[&gateway]);
    let user = world.user("alice", 10);
    world.send(user, 1);
    world.until(STATE, "sent");
    // As left by a process that died before it looked.
    let _ = world.sql(
        "INSERT INTO sms_receipts (provider, provider_message_id, status)
         VALUES ('first', 'first-0', 'delivered'), ('first', 'nobody', 'delivered')",
    );
    world.start_b();
    world.until(STATE, "delivered");
    let left = "SELECT provider_message_id FROM sms_receipts";
    assert_eq!(world.sql(left), "nobody");
}

#[test]
fn receipts_without_the_secret_or_with_nonsense_are_refused_and_counted() {
    let gateway = Gateway::start("first");
    let world = World::with_gateways(&[&gateway]);
    let good = json!({"id": "x", "status": "DELIVRD"});
    let refused = world.receipt_with("wrong", "first", &good);
    assert_eq!(refused.status, 401, "{}", refused.text);
    let refused = world.receipt("nobody", &good);
    assert_eq!(
        (refused.status, &refused.body["code"]),
        (404, &json!("provider_not_found"))
    );
    let nonsense = [
        json!({"status": "DELIVRD"}),
        json!({"id": "x", "status": "NEW"}),
        json!({"id": "x".repeat(257), "status": "DELIVRD"}),
        json!([]),
    ];
    for body in &nonsense {
        let answer = world.receipt("first", body);
        assert_eq!(answer.status, 422, "{body}: {}", answer.text);
        assert_eq!(answer.body["code"], "receipt_not_understood");
    }
    let huge = world.receipt("first", &json!({"id": "x".repeat(70_000)}));
    assert_eq!(huge.status, 413, "{}", huge.text);
    let count = |outcome: &str| {
        let label = format!("outcome=\"{outcome}\"");
        world.metric("identity_sms_receipts_total", &label)
    };
    assert_eq!((count("unauthorized"), count("unreadable")), (1, 5));
    assert_eq!(world.sql("SELECT count(*) FROM sms_receipts"), "0");
}

#[test]
fn receipts_race_with_answers_and_none_is_lost() {
    const SMS: u64 = 60;
    let gateway = Gateway::start("first");
    let world = World::with_gateways(&[&gateway]);
    let user = world.user("alice", 1000);
    for number in 0..SMS {
        world.send(user, number);
    }
    // As soon as the gateway has one, and each twice: before, while and after its answer is stored.
    let mut reported = 0;
    eventually(DEADLINE, "all SMS at the gateway", || {
        for asked in gateway.asked().iter().skip(reported) {
            for _ in 0..2 {
                let answer = world.receipt("first", &json!({"id": asked.id, "status": "DELIVRD"}));
                ensure!(answer.status == 200, "{}", answer.text);
            }
            reported += 1;
        }
        ensure!(reported as u64 == SMS, "{reported}");
        Ok(())
    });
    let delivered = "SELECT count(*) FROM sms_messages WHERE status = 'delivered'";
    world.until(delivered, &SMS.to_string());
    assert_eq!(
        world.metric("identity_sms_receipts_total", "outcome=\"applied\""),
        SMS
    );
}
