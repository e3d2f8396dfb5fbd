//! What server A is told of a user's SMS, and of nobody else's.

use std::thread;

use serde_json::json;

use super::b_world::{SERVICE_TOKEN, World, id};

#[test]
fn a_user_sees_their_own_sms_and_no_other() {
    let world = World::start();
    let (alice, bob) = (world.user("alice", 10), world.user("bob", 0));
    world.publish(&world.envelope(alice, 1, &json!({"client_reference": "order 7"})));
    world.send(bob, 2);
    world.until(
        "SELECT count(*) FROM sms_messages WHERE status IN ('sent', 'rejected')",
        "2",
    );

    let own = world.internal(&format!("{alice}/sms/{}", id(1)));
    assert_eq!(own.status, 200, "{}", own.text);
    assert_eq!(own.body["status"], "sent");
    assert_eq!(own.body["to"], "+14155550123");
    assert_eq!(own.body["client_reference"], "order 7");
    assert!(own.body["expires_at"].is_string(), "{}", own.text);
    let refused = world.internal(&format!("{bob}/sms/{}", id(2)));
    assert_eq!(
        refused.body["error_code"], "quota_exceeded",
        "{}",
        refused.text
    );
    assert_eq!(refused.body["history"][1]["error_code"], "quota_exceeded");

    let strange = [
        format!("{bob}/sms/{}", id(1)),
        format!("{alice}/sms/{}", id(2)),
        format!("{alice}/sms/{}", id(3)),
        format!("{alice}/sms/none"),
        format!("x/sms/{}", id(1)),
    ];
    for path in strange {
        let answer = world.internal(&path);
        assert_eq!(
            (answer.status, &answer.body["code"]),
            (404, &json!("sms_not_found")),
            "{path}"
        );
    }
    let list = world.internal(&format!("{bob}/sms"));
    let ids: Vec<_> = list.body["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|it| &it["message_id"])
        .collect();
    assert_eq!(ids, [&json!(id(2))]);
}

#[test]
fn pages_go_from_the_newest_to_the_oldest_without_a_hole_though_new_ones_come() {
    const SMS: u64 = 25;
    let world = World::start();
    let user = world.user("alice", 1000);
    for number in 0..SMS {
        // Several of one moment: the id decides.
        let at = world.time(&format!(
            "{} s",
            i64::try_from(number / 3).expect("few") - 100
        ));
        let expires_at = world.time(if number % 4 == 0 { "-1 s" } else { "1 h" });
        let times = json!({"submitted_at": at, "expires_at": expires_at});
        world.publish(&world.envelope(user, number, &times));
    }
    world.until(
        "SELECT count(*) FROM sms_messages WHERE status IN ('sent', 'expired')",
        "25",
    );
    let all = world.sql("SELECT string_agg(message_id::text, ',' ORDER BY submitted_at DESC, message_id DESC) FROM sms_messages");
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    for page in 0.. {
        let answer = world.internal(&format!("{user}/sms?limit=4{cursor}"));
        assert_eq!(answer.status, 200, "{}", answer.text);
        let items = answer.body["items"].as_array().expect("items");
        seen.extend(
            items
                .iter()
                .map(|it| it["message_id"].as_str().unwrap_or_default().to_owned()),
        );
        if page == 0 {
            world.send(user, 99);
            world.until("SELECT count(*) FROM sms_messages", "26");
        }
        let Some(next) = answer.body["next_cursor"].as_str() else {
            break;
        };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen.join(","), all);

    let count = |query: &str| {
        let answer = world.internal(&format!("{user}/sms?{query}"));
        assert_eq!(answer.status, 200, "{query}: {}", answer.text);
        answer.body["items"].as_array().map_or(0, Vec::len)
    };
    world.until(
        "SELECT count(*) FROM sms_messages WHERE status IN ('sent', 'expired')",
        "26",
    );
    assert_eq!(count("status=expired"), 7);
    assert_eq!(count(&format!("to_time={}", world.time("-1 h"))), 0);
    assert_eq!(count(&format!("from_time={}", world.time("-1 h"))), 26);
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("status=lost", "status"),
        ("cursor=x", "cursor"),
        ("from_time=today", "from_time"),
        ("to_time=", "to_time"),
    ] {
        let answer = world.internal(&format!("{user}/sms?{query}"));
        assert_eq!(
            (answer.status, &answer.body["field"]),
            (422, &json!(field)),
            "{query}"
        );
    }
}

#[test]
fn pages_of_one_status_have_no_hole_and_a_read_that_takes_too_long_is_given_up() {
    let world = World::start();
    let user = world.user("alice", 1000);
    for number in 0..9 {
        let expires_at = world.time(if number % 2 == 0 { "-1 s" } else { "1 h" });
        world.publish(&world.envelope(user, number, &json!({"expires_at": expires_at})));
    }
    world.until(
        "SELECT count(*) FROM sms_messages WHERE status IN ('sent', 'expired')",
        "9",
    );
    let (mut seen, mut cursor) = (0, String::new());
    loop {
        let answer = world.internal(&format!("{user}/sms?status=expired&limit=2{cursor}"));
        let items = answer.body["items"].as_array().expect("items");
        assert!(items.iter().all(|it| it["status"] == "expired"));
        seen += items.len();
        let Some(next) = answer.body["next_cursor"].as_str() else {
            break;
        };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, 5);

    thread::scope(|scope| {
        scope.spawn(|| world.sql("BEGIN; LOCK TABLE sms_messages; SELECT pg_sleep(20); COMMIT"));
        world.until(
            "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted
             AND relation = 'sms_messages'::regclass",
            "1",
        );
        let answer = world.internal(&format!("{user}/sms"));
        assert_eq!(answer.status, 503, "{}", answer.text);
        assert_eq!(answer.body["code"], "database_unavailable");
    });
}

#[test]
fn only_the_service_token_opens_the_internal_api_and_it_opens_nothing_else() {
    let world = World::start();
    for token in ["wrong", "", "test-admin-token-0123456789"] {
        let answer = world.internal_as(token, "1/sms");
        assert_eq!(answer.status, 401, "{token}");
        assert_eq!(answer.body["code"], "unauthorized");
    }
    let bearer = format!("Bearer {SERVICE_TOKEN}");
    let url = format!("{}/admin/v1/users", world.bs[0].url);
    let answer = world
        .http
        .call("GET", &url, Some(("authorization", &bearer)), None);
    assert_eq!(answer.expect("B answers").status, 401);

    let without = World::new().env("SERVICE_TOKEN", "").started();
    let answer = without.internal("1/sms");
    assert!([401, 404].contains(&answer.status), "{}", answer.text);
}
