//! No 202 for an SMS that is not in the queue, and every SMS once in server B.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;
use test_support::TestServers;

use test_support::app::{App, DEADLINE, Setup, Verdict};
use test_support::servers::{RabbitMq, RabbitMqOptions};
use test_support::{Link, eventually};

const SENDS: usize = 20_000;
const CLIENTS: usize = 32;

#[test]
fn an_sms_is_stored_with_the_callers_user_id_and_handed_to_the_provider() {
    let app = App::start();
    let (alice, bob) = (app.create_user("alice"), app.create_user("bob"));
    for user in [&alice, &bob] {
        app.everywhere(&user.key, Verdict::Accepted);
        for replica in &app.replicas {
            let answer = app.send(replica, &user.key).expect("A answers");
            assert_eq!(answer.status, 202, "{}", answer.text);
            assert_eq!(answer.body["status"], "queued");
            assert_eq!(answer.body["segments"], 1);
            assert_eq!(answer.body["encoding"], "gsm7");
            let id = answer.body["message_id"].as_str().expect("message_id");
            let query = format!(
                "SELECT user_id || ' ' || status || ' ' || provider FROM sms_messages
                 WHERE message_id = '{id}'"
            );
            let expected = format!("{} sent log", user.id);
            eventually(DEADLINE, "the SMS to be sent", || {
                let row = app.sql(&query);
                anyhow::ensure!(row.trim() == expected, "{row}");
                Ok(())
            });
        }
    }
}

#[test]
fn an_sms_whose_user_is_gone_or_inactive_by_then_is_rejected_with_the_reason() {
    let (mut setup, guards) = Setup::shared();
    let link = setup.relay_b_to_broker();
    let mut app = App::new(setup, Some(guards));
    app.start_all(1);
    let (inactive, deleted) = (app.create_user("inactive"), app.create_user("deleted"));
    app.everywhere(&deleted.key, Verdict::Accepted);

    // Server B is cut off: the replica lets in what its cache allows, the changes are not published.
    link.set_link(Link::Silent);
    let _ = app.sql(&format!(
        "UPDATE users SET is_active = false WHERE user_id = {}",
        inactive.id
    ));
    let _ = app.sql(&format!("DELETE FROM users WHERE user_id = {}", deleted.id));
    for user in [&inactive, &deleted] {
        let answer = app.send(&app.replicas[0], &user.key).expect("A answers");
        assert_eq!(answer.status, 202, "{}", answer.text);
    }
    link.set_link(Link::Down);
    link.set_link(Link::Up);
    for (user, code) in [(&inactive, "user_inactive"), (&deleted, "user_deleted")] {
        let query = format!(
            "SELECT status || ' ' || error_code || ' ' || coalesce(provider, 'none')
             FROM sms_messages WHERE user_id = {}",
            user.id
        );
        eventually(DEADLINE, "the SMS to be rejected", || {
            let row = app.sql(&query);
            anyhow::ensure!(row == format!("rejected {code} none"), "{row}");
            Ok(())
        });
    }
    let b = app.server_b.as_ref().expect("server B runs");
    let late = b.metric(
        app.http(),
        "identity_sms_admitted_after_revocation_total",
        "",
    );
    assert!((late - 2.0).abs() < f64::EPSILON, "{late}");
}

#[test]
fn the_bearer_form_of_the_key_is_accepted_and_errors_are_problems() {
    let app = App::start();
    let user = app.create_user("alice");
    app.everywhere(&user.key, Verdict::Accepted);
    let replica = &app.replicas[0];
    let url = format!("{}/api/v1/sms/send", replica.url);
    let bearer = format!("Bearer {}", user.key);
    let body = json!({"to": "+14155550123", "body": "text"});
    let answer = app
        .http()
        .call("POST", &url, Some(("authorization", &bearer)), Some(&body))
        .expect("A answers");
    assert_eq!(answer.status, 202, "{}", answer.text);

    let mistakes = [
        (None, json!({}), 401),
        (Some(("api-key", "isk_wrong")), json!({}), 401),
        (
            Some(("api-key", user.key.as_str())),
            json!({"to": "12", "body": "x"}),
            422,
        ),
        (
            Some(("api-key", user.key.as_str())),
            json!({"body": "x".repeat(70_000)}),
            413,
        ),
    ];
    for (header, body, status) in mistakes {
        let answer = app
            .http()
            .call("POST", &url, header, Some(&body))
            .expect("A answers");
        assert_eq!(answer.status, status, "{}", answer.text);
        assert_eq!(answer.content_type, "application/problem+json");
        assert_eq!(answer.body["status"], status);
    }
}

#[test]
fn every_202_is_found_in_server_b_exactly_once_though_the_broker_is_killed() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut broker =
        RabbitMq::start(dir.path(), &RabbitMqOptions::default()).expect("the broker starts");
    let database = TestServers::shared().fresh_database();
    let setup = Setup::on(&broker.amqp_url("/"), database.url());
    let mut app = App::new(setup, None);
    app.start_all(2);
    let user = app.create_user("alice");
    app.everywhere(&user.key, Verdict::Accepted);

    let accepted = Mutex::new(Vec::with_capacity(SENDS));
    let refused = AtomicUsize::new(0);
    let so_far = || accepted.lock().expect("no panics").len();
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (app, user, accepted, refused, so_far) =
                (&app, &user, &accepted, &refused, &so_far);
            scope.spawn(move || {
                let replica = &app.replicas[client % app.replicas.len()];
                while so_far() < SENDS {
                    match app.send(replica, &user.key) {
                        Ok(answer) if answer.status == 202 => {
                            let id = answer.body["message_id"].as_str().expect("message_id");
                            accepted.lock().expect("no panics").push(id.to_owned());
                        }
                        Ok(answer) => {
                            assert_eq!(answer.status, 503, "{}", answer.text);
                            assert!(!answer.header("retry-after").is_empty());
                            refused.fetch_add(1, Ordering::Relaxed);
                            // As a client would, but less patient than the answer asks for.
                            thread::sleep(Duration::from_millis(100));
                        }
                        Err(error) => panic!("{error:#}"),
                    }
                }
            });
        }
        eventually(DEADLINE, "a quarter of the sends", || so_far() > SENDS / 4);
        broker.kill9().expect("the broker can be killed");
        broker.start_again().expect("the broker starts again");
    });

    let accepted: HashSet<String> = accepted
        .into_inner()
        .expect("no panics")
        .into_iter()
        .collect();
    let refused = refused.into_inner();
    println!(
        "accepted {}, refused {refused} while the broker was down",
        accepted.len()
    );
    assert!(refused > 0, "the fault must hit while SMS are sent");
    eventually(DEADLINE, "every accepted SMS in server B", || {
        // message_id is the primary key: what is there is there once.
        let stored = app.sql("SELECT message_id FROM sms_messages");
        let stored: HashSet<&str> = stored.lines().map(str::trim).collect();
        let missing = accepted
            .iter()
            .filter(|id| !stored.contains(id.as_str()))
            .count();
        anyhow::ensure!(missing == 0, "{missing} of {} are missing", accepted.len());
        Ok(())
    });
    eventually(DEADLINE, "every SMS handed to the provider", || {
        app.sql("SELECT count(*) FROM sms_messages WHERE status <> 'sent'") == "0"
    });
}
