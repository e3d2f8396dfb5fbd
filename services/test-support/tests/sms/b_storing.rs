//! A batch of SMS is stored once, charged once, and never beyond the quota.

use std::collections::HashSet;
use std::thread;

use anyhow::ensure;
use serde_json::{Value, json};
use test_support::app::DEADLINE;
use test_support::eventually;

use super::b_gateway::Gateway;
use super::b_world::{World, id};

const QUOTA: usize = 100;
const SMS: u64 = 250;

#[test]
fn duplicates_and_redeliveries_are_charged_once() {
    let mut world = World::start();
    let user = world.user("alice", 10);
    let two_segments = json!({"segments": 2});
    for _ in 0..3 {
        world.publish(&world.envelope(user, 1, &two_segments));
    }
    world.until("SELECT string_agg(status, ',') FROM sms_messages", "sent");

    // Another server B takes the same SMS once more.
    let _ = world.kill_b();
    world.start_b();
    world.wait_ready();
    world.publish(&world.envelope(user, 1, &two_segments));
    world.send(user, 2);
    world.until(
        "SELECT count(*) FROM sms_messages WHERE status = 'sent'",
        "2",
    );
    eventually(DEADLINE, "the duplicate to be counted", || {
        world.metric("identity_sms_duplicates_total", "") >= 1
    });
    world.until("SELECT segments FROM sms_usage", "3");
}

#[test]
fn the_quota_is_exact_and_each_sms_handed_over_once_though_there_are_two_server_bs_and_messages_come_twice()
 {
    let gateway = Gateway::without_tokens("first");
    let mut world = World::with_patience(&gateway);
    let user = world.user("alice", u32::try_from(QUOTA).expect("small"));
    let _ = world.kill_b();
    thread::scope(|scope| {
        for part in 0..5 {
            let world = &world;
            scope.spawn(move || {
                for number in (0..SMS).filter(|number| number % 5 == part) {
                    world.send(user, number);
                    if number % 4 == 0 {
                        world.send(user, number);
                    }
                }
            });
        }
    });
    world.start_b();
    world.start_b();
    let rest = SMS - QUOTA as u64;
    let states = "SELECT string_agg(line, ' ') FROM (
        SELECT status || coalesce(':' || error_code, '') || '=' || count(*) AS line FROM sms_messages
        GROUP BY status, error_code ORDER BY status) AS lines";
    world.until(
        states,
        &format!("rejected:quota_exceeded={rest} sent={QUOTA}"),
    );
    world.until("SELECT segments FROM sms_usage", &QUOTA.to_string());
    assert_eq!(world.metric("identity_sms_over_quota_total", ""), rest);
    // The gateway would send whatever it is asked for.
    let tokens = gateway.tokens_sent();
    let different: HashSet<_> = tokens.iter().collect();
    assert_eq!((tokens.len(), different.len()), (QUOTA, QUOTA));
}

#[test]
fn another_content_under_the_same_id_is_recorded_and_changes_nothing() {
    let world = World::start();
    let user = world.user("alice", 10);
    let with = |hash: &str, body: &str| json!({"request_hash": hash, "body": body, "client_reference": "r-1"});
    world.publish(&world.envelope(user, 1, &with("aa", "first")));
    world.until("SELECT status FROM sms_messages", "sent");
    world.publish(&world.envelope(user, 1, &with("aa", "first")));
    world.publish(&world.envelope(user, 1, &with("bb", "second")));
    let row = "SELECT body || ' ' || idempotency_conflicts || ' ' || status FROM sms_messages";
    world.until(row, "first 1 sent");
    world.until("SELECT segments FROM sms_usage", "1");
    assert_eq!(
        world.metric("identity_sms_idempotency_conflicts_total", ""),
        1
    );
    let told = world.internal(&format!("{user}/sms/{}", id(1)));
    assert_eq!(told.body["idempotency_conflicts"], 1, "{}", told.text);
    assert_eq!(told.body["client_reference"], "r-1");
}

#[test]
fn the_use_of_a_key_is_noted_without_an_event_and_not_at_every_sms() {
    let world = World::start();
    let user = world.user("alice", 10);
    let _ = world.sql(&format!(
        "INSERT INTO api_keys (user_id, digest, prefix) VALUES ({user}, sha256('key'), 'isk_')"
    ));
    let hex = world.sql("SELECT encode(sha256('key'), 'hex')");
    let version = world.sql("SELECT version FROM users");
    let key = json!({"key_digest": format!("sha256:{hex}")});
    world.publish(&world.envelope(user, 1, &key));
    world.until(
        "SELECT last_used_at > now() - interval '1 minute' FROM api_keys",
        "t",
    );
    let first = world.sql("SELECT last_used_at FROM api_keys");
    world.publish(&world.envelope(user, 2, &key));
    world.until(
        "SELECT count(*) FROM sms_messages WHERE status = 'sent'",
        "2",
    );
    assert_eq!(world.sql("SELECT last_used_at FROM api_keys"), first);
    assert_eq!(world.sql("SELECT version FROM users"), version);
}

#[test]
fn what_users_have_used_is_broadcast_and_told_again_to_who_comes_later() {
    let mut world = World::start();
    let management = world.management().clone();
    let vhost = world.vhost().to_owned();
    eventually(DEADLINE, "the exchange", || {
        management.bind_queue(&vhost, "sms_usage_exchange", "listener")
    });
    let user = world.user("alice", 3);
    let day = world.sql("SELECT (now() AT TIME ZONE 'UTC')::date");
    let heard = |stored_until: Option<&Value>| {
        let expected = json!({"day": day, "users": [{"user_id": user, "segments": 3}]});
        let until = stored_until.map(without_zeros);
        eventually(DEADLINE, "the usage", || {
            let messages = management.get_messages(&vhost, "listener", 100)?;
            let told = messages.iter().any(|message| {
                let mut body: Value = message["payload"]
                    .as_str()
                    .and_then(|text| serde_json::from_str(text).ok())
                    .unwrap_or_default();
                let entry = body["users"][0].as_object_mut();
                let told = entry.and_then(|entry| entry.remove("stored_until"));
                message["properties"]["type"] == "sms.usage"
                    && body == expected
                    && told.as_ref().map(without_zeros) == until
            });
            ensure!(told, "{messages:?}");
            Ok(())
        });
    };
    let sms = world.envelope(user, 1, &json!({"segments": 3}));
    world.publish(&sms);
    heard(Some(&sms["submitted_at"]));
    // Used up: told at once by a server B that starts, and by one of all every 30 s.
    world.start_b();
    heard(None);
    // A duplicate tells, too.
    let duplicate = world.envelope(user, 1, &json!({"segments": 3}));
    world.publish(&duplicate);
    heard(Some(&duplicate["submitted_at"]));
}

/// Times are written with as many digits as they need, or with six.
fn without_zeros(time: &Value) -> String {
    let time = time.as_str().expect("a time");
    time.trim_end_matches(['0', 'Z']).to_owned()
}
