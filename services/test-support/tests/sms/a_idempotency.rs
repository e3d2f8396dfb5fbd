//! One idempotency key is one SMS, whichever replica is asked.

use std::collections::HashSet;
use std::thread;

use serde_json::{Value, json};
use test_support::Answer;
use test_support::app::{App, DEADLINE, Node, Setup, TestUser, Verdict};
use test_support::eventually;

fn send(app: &App, replica: &Node, user: &TestUser, key: &str, body: &str) -> Answer {
    let url = format!("{}/api/v1/sms/send", replica.url);
    let headers = [("api-key", user.key.as_str()), ("idempotency-key", key)];
    let sms = json!({"to": "+14155550123", "body": body});
    let answer = app.http().call_with("POST", &url, &headers, Some(&sms));
    answer.expect("A answers")
}

fn message_id(answer: &Answer) -> String {
    answer.body["message_id"]
        .as_str()
        .expect("message_id")
        .to_owned()
}

#[test]
fn a_hundred_tries_with_one_key_through_two_replicas_are_one_sms() {
    let app = App::start();
    let user = app.create_user("alice");
    app.everywhere(&user.key, Verdict::Accepted);
    let ids: HashSet<String> = thread::scope(|scope| {
        let tries: Vec<_> = (0..100)
            .map(|number| {
                let (app, user) = (&app, &user);
                scope.spawn(move || {
                    // The same key, quoted or not.
                    let key = ["order-4711", "\"order-4711\""][number / 2 % 2];
                    let answer = send(app, &app.replicas[number % 2], user, key, "hi");
                    assert_eq!(answer.status, 202, "{}", answer.text);
                    message_id(&answer)
                })
            })
            .collect();
        let ids = tries.into_iter().map(|it| it.join().expect("no panic"));
        ids.collect()
    });
    assert_eq!(ids.len(), 1, "{ids:?}");
    let id = ids.iter().next().expect("one");
    eventually(DEADLINE, "all of them to be taken in", || {
        let queue = app.sql("SELECT count(*) FROM sms_messages");
        let b = app.server_b.as_ref().expect("server B runs");
        let received = b.metric(app.http(), "identity_sms_received_total", "");
        anyhow::ensure!(
            queue == "1" && received > 99.5,
            "{queue} rows of {received}"
        );
        Ok(())
    });
    assert_eq!(app.sql("SELECT message_id FROM sms_messages"), *id);
}

#[test]
fn another_content_under_a_key_is_told_where_it_is_known_and_changes_nothing_anywhere() {
    let (setup, guards) = Setup::shared();
    let mut app = App::new(setup, Some(guards));
    app.start_all(1);
    let (user, other) = (app.create_user("alice"), app.create_user("bob"));
    app.everywhere(&other.key, Verdict::Accepted);
    let first = send(&app, &app.replicas[0], &user, "key", "one");
    assert_eq!(first.status, 202, "{}", first.text);
    let id = message_id(&first);

    let conflict = send(&app, &app.replicas[0], &user, "key", "two");
    assert_eq!(conflict.status, 409, "{}", conflict.text);
    assert_eq!(conflict.body["code"], "idempotency_conflict");
    assert_eq!(conflict.body["message_id"], Value::from(id.as_str()));
    let again = send(&app, &app.replicas[0], &user, "key", "one");
    assert_eq!((again.status, message_id(&again)), (202, id.clone()));
    // Of another user it is another key.
    let of_other = send(&app, &app.replicas[0], &other, "key", "two");
    assert_eq!(of_other.status, 202, "{}", of_other.text);
    assert_ne!(message_id(&of_other), id);

    // A replica that has just started knows nothing of it; the id is the same, and so is the row.
    app.start_a();
    app.wait_ready();
    let unknown = send(&app, &app.replicas[1], &user, "key", "two");
    assert_eq!((unknown.status, message_id(&unknown)), (202, id.clone()));
    let row = format!("SELECT body FROM sms_messages WHERE message_id = '{id}'");
    eventually(DEADLINE, "everything to be taken in", || {
        let b = app.server_b.as_ref().expect("server B runs");
        let received = b.metric(app.http(), "identity_sms_received_total", "");
        anyhow::ensure!(received > 3.5, "{received} received");
        Ok(())
    });
    assert_eq!(app.sql(&row), "one");
}
