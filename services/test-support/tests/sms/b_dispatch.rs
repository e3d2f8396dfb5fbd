//! Providers that fail, hang and refuse; routes, retries and validity.

use serde_json::json;
use test_support::app::DEADLINE;
use test_support::eventually;

use super::b_gateway::{Behaviour, Gateway};
use super::b_world::{World, id};

const STATE: &str = "SELECT status || coalesce(' ' || provider, '') || coalesce(' ' || error_code, '') FROM sms_messages";

#[test]
fn a_gateway_gets_the_sms_as_configured_with_the_token_and_the_secret() {
    let gateway = Gateway::start("first");
    let world = World::with_gateways(&[&gateway]);
    let user = world.user("alice", 10);
    world.send(user, 1);
    world.until(STATE, "sent first");
    let asked = &gateway.asked()[0];
    let expected = json!({
        "kind": "sms", "sender": "ACME", "message": {"to": "+14155550123", "text": "a test"},
    });
    assert_eq!(asked.body, expected);
    assert_eq!(asked.headers["idempotency-key"], id(1));
    assert_eq!(asked.headers["content-type"], "application/json");
    assert!(asked.headers["authorization"].starts_with("Bearer secret-of-the-gateway"));
    let stored = world.sql("SELECT provider_message_id FROM sms_messages");
    assert_eq!(stored, "first-0");
    world.assert_no_secrets_logged();
}

#[test]
fn the_next_provider_is_asked_when_one_fails_or_hangs_and_each_step_is_told() {
    let (first, second, third) = (
        Gateway::start("first"),
        Gateway::start("second"),
        Gateway::start("third"),
    );
    first.behave(Behaviour::Refuse(503, None));
    second.behave(Behaviour::Hang);
    let world = World::with_gateways(&[&first, &second, &third]);
    let user = world.user("alice", 10);
    world.send(user, 1);
    world.until(STATE, "sent third");
    assert_eq!((first.asked().len(), second.asked().len()), (1, 1));

    let told = world.internal(&format!("{user}/sms/{}", id(1)));
    let steps = told.body["history"].as_array().cloned().unwrap_or_default();
    let steps: Vec<String> = steps
        .iter()
        .map(|step| match step["error_code"].as_str() {
            Some(code) => format!("{}:{code}", step["status"].as_str().unwrap_or_default()),
            None => step["status"].as_str().unwrap_or_default().to_owned(),
        })
        .collect();
    let expected = [
        "queued",
        "sending",
        "queued:provider_unavailable",
        "sending",
        "queued:provider_timeout",
        "sending",
        "sent",
    ];
    assert_eq!(steps, expected);
    for class in ["provider_unavailable", "provider_timeout"] {
        let label = format!("class=\"{class}\"");
        assert_eq!(world.metric("identity_sms_retries_total", &label), 1);
    }
    // Either may have sent it.
    let again = "identity_sms_handed_over_again_total";
    assert_eq!(world.metric(again, "reason=\"ambiguous\""), 2);
    assert_eq!(world.metric(again, "reason=\"lease\""), 0);
}

#[test]
fn a_gateway_that_has_taken_an_sms_and_hangs_in_its_answer_is_not_asked_again_nor_another() {
    let (first, second) = (Gateway::start("first"), Gateway::start("second"));
    first.behave(Behaviour::HangInAnswer);
    let world = World::with_gateways(&[&first, &second]);
    let user = world.user("alice", 10);
    world.send(user, 1);
    world.until(STATE, "sent first");
    assert_eq!((first.asked().len(), second.asked().len()), (1, 0));
    let unnamed = "SELECT provider_message_id IS NULL FROM sms_messages";
    assert_eq!(world.sql(unnamed), "t");
}

#[test]
fn a_gateway_that_does_not_let_us_in_is_asked_again() {
    let gateway = Gateway::start("first");
    gateway.behave(Behaviour::Refuse(401, None));
    let world = World::with_gateways(&[&gateway]);
    let user = world.user("alice", 10);
    world.send(user, 1);
    world.until(
        "SELECT failures > 0 AND error_code = 'provider_unauthorized' FROM sms_messages",
        "t",
    );
    // The secret has been renewed.
    gateway.behave(Behaviour::Accept);
    world.until(STATE, "sent first");
}

#[test]
fn many_sms_behind_a_gateway_that_hangs_do_not_hold_up_those_of_another() {
    // They took longer than a test waits, when each waited for room.
    const BEHIND: u32 = 30_000;
    let (first, second) = (Gateway::start("first"), Gateway::start("second"));
    first.behave(Behaviour::Hang);
    let world = World::new().gateways(&[&first, &second], 20).started();
    let user = world.user("alice", 10);
    let _ = world.sql(&format!(
        "INSERT INTO sms_messages (message_id, user_id, recipient, body, encoding, segments, submitted_at, admission_epoch,
                                   admission_sequence, admission_cache_age_ms, status)
         SELECT gen_random_uuid(), {user}, '+14155550123', 'x', 'gsm7', 1, now(), 1, 1, 0, 'queued'
         FROM generate_series(1, {BEHIND})"
    ));
    world.publish(&world.envelope(user, 1, &json!({"to": "+4915112345678"})));
    world.until(
        "SELECT status FROM sms_messages WHERE recipient = '+4915112345678'",
        "sent",
    );
    // As many as it takes at once.
    assert!(first.asked().len() >= 64);
}

#[test]
fn an_sms_that_waits_for_room_at_its_provider_has_no_steps_of_it() {
    // Two more than a provider takes at once.
    const SMS: u64 = 66;
    let gateway = Gateway::start("first");
    gateway.behave(Behaviour::HoldAnswer);
    let world = World::with_patience(&gateway);
    let user = world.user("alice", 1000);
    for number in 0..SMS {
        world.send(user, number);
    }
    world.until(
        "SELECT count(*) FROM sms_messages WHERE status = 'queued' AND attempts >= 2",
        "2",
    );
    let steps = "SELECT DISTINCT history FROM sms_messages WHERE status = 'queued'";
    assert_eq!(world.sql(steps), "[]");
    gateway.behave(Behaviour::Accept);
    world.until(
        "SELECT count(*) FROM sms_messages WHERE status = 'sent'",
        &SMS.to_string(),
    );
    let steps = "SELECT DISTINCT jsonb_path_query_array(history, '$[*].status') FROM sms_messages";
    assert_eq!(world.sql(steps), "[\"sending\", \"sent\"]");
}

#[test]
fn an_sms_that_may_have_been_sent_is_asked_for_once_more_although_its_validity_has_ended() {
    let gateway = Gateway::start("first");
    gateway.behave(Behaviour::HoldAnswer);
    let mut world = World::with_patience(&gateway);
    let user = world.user("alice", 10);
    world.send(user, 1);
    eventually(DEADLINE, "the SMS at the gateway", || {
        !gateway.asked().is_empty()
    });
    let _ = world.kill_b();
    let _ = world.sql(
        "UPDATE sms_messages SET next_attempt_at = now(), expires_at = now() - interval '1 s'",
    );
    gateway.behave(Behaviour::Accept);
    world.start_b();
    world.until(STATE, "sent first");
    assert_eq!(gateway.asked().len(), 2);
    assert_eq!(gateway.tokens_sent(), [id(1)]);
    let steps = "SELECT jsonb_path_query_array(history, '$[*].status') FROM sms_messages";
    assert_eq!(world.sql(steps), "[\"sending\", \"sent\"]");
    assert_eq!(
        world.metric("identity_sms_handed_over_again_total", "reason=\"lease\""),
        1
    );
}

#[test]
fn a_refusal_falls_over_only_where_the_route_says_so() {
    let (first, second) = (Gateway::start("first"), Gateway::start("second"));
    let world = World::with_gateways(&[&first, &second]);
    let user = world.user("alice", 10);
    first.behave(Behaviour::Refuse(400, None));
    world.send(user, 1);
    world.until(STATE, "sent second");

    // The route of +49 asks the other way round, and takes no for an answer.
    second.behave(Behaviour::Refuse(400, None));
    first.behave(Behaviour::Accept);
    world.publish(&world.envelope(user, 2, &json!({"to": "+4915112345678"})));
    world.until(
        &format!("{STATE} WHERE message_id = '{}'", id(2)),
        "failed second provider_refused",
    );
    assert_eq!(first.asked().len(), 1);
}

#[test]
fn a_gateway_that_asks_for_time_gets_it() {
    let gateway = Gateway::start("first");
    gateway.behave(Behaviour::Refuse(429, Some("3000")));
    let world = World::with_gateways(&[&gateway]);
    let user = world.user("alice", 10);
    world.send(user, 1);
    world.until(STATE, "queued first provider_busy");
    let waits =
        "SELECT next_attempt_at BETWEEN now() + interval '2900 s' AND now() + interval '3400 s'
                 FROM sms_messages";
    assert_eq!(world.sql(waits), "t");
    assert_eq!(gateway.asked().len(), 1);
}

#[test]
fn an_sms_expires_before_its_first_try_and_between_two() {
    let gateway = Gateway::start("first");
    gateway.behave(Behaviour::Refuse(429, Some("3000")));
    let world = World::with_gateways(&[&gateway]);
    let user = world.user("alice", 10);
    world.publish(&world.envelope(user, 1, &json!({"expires_at": world.time("-1 s")})));
    world.until(STATE, "expired validity_expired");
    assert_eq!(gateway.asked().len(), 0);

    // Its next try would be in an hour.
    world.publish(&world.envelope(user, 2, &json!({"expires_at": world.time("10 s")})));
    world.until(
        &format!("{STATE} WHERE message_id = '{}'", id(2)),
        "expired first validity_expired",
    );
    assert_eq!(gateway.asked().len(), 1);
    eventually(DEADLINE, "both to be counted", || {
        world.metric("identity_sms_dispatched_total", "outcome=\"expired\"") == 2
    });
}

#[test]
fn the_default_validity_is_the_configured_one() {
    let world = World::new().env("SMS_VALIDITY_SECONDS", "600").started();
    let user = world.user("alice", 10);
    world.send(user, 1);
    world.until(
        "SELECT expires_at - submitted_at FROM sms_messages",
        "00:10:00",
    );
}

#[test]
fn a_wrong_providers_file_stops_the_start_and_names_the_field() {
    let world = World::new();
    let file = world.write(
        "providers.yaml",
        "providers: {log: log}\nroutes: [{prefix: '', providers: [lgo]}]\n",
    );
    let process = world
        .command()
        .env("PROVIDERS_FILE", file)
        .start()
        .expect("it starts");
    let status = process.wait_exit(DEADLINE).expect("it ends");
    assert!(!status.success());
    let output = process.output();
    let expected = "PROVIDERS_FILE, routes[0].providers: there is no provider `lgo`";
    assert!(output.contains(expected), "{output}");
}
