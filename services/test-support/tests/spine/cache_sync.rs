//! Keys, reconnects, full syncs.

use anyhow::Context as _;
use serde_json::{Value, json};
use test_support::app::{App, DEADLINE, Setup, Verdict};
use test_support::{Link, eventually};

#[test]
fn a_rotated_key_is_refused_and_its_successor_accepted_on_every_replica() {
    let app = App::start();
    let user = app.create_user("alice");
    app.everywhere(&user.key, Verdict::Accepted);
    let answer = app
        .admin("POST", &format!("/users/{}/rotate-key", user.id), None)
        .expect("B answers");
    assert_eq!(answer.status, 200, "{}", answer.text);
    let new_key = answer.body["api_key"].as_str().expect("api_key");
    app.everywhere(new_key, Verdict::Accepted);
    app.everywhere(&user.key, Verdict::Unknown);
}

#[test]
fn with_an_overlap_both_keys_are_accepted_until_the_old_one_is_deleted() {
    let app = App::start();
    let user = app.create_user("alice");
    let answer = app
        .admin(
            "POST",
            &format!("/users/{}/rotate-key", user.id),
            Some(&json!({"overlap_seconds": 3600})),
        )
        .expect("B answers");
    let new_key = answer.body["api_key"].as_str().expect("api_key");
    app.everywhere(new_key, Verdict::Accepted);
    app.everywhere(&user.key, Verdict::Accepted);
    let _ = app.sql("DELETE FROM api_keys WHERE expires_at IS NOT NULL");
    app.everywhere(&user.key, Verdict::Unknown);
    app.everywhere(new_key, Verdict::Accepted);
}

#[test]
fn a_user_deleted_while_the_replica_was_disconnected_is_gone_after_the_reconnect() {
    let (mut setup, guards) = Setup::shared();
    let link = setup.relay_replicas_to_broker();
    let mut app = App::new(setup, Some(guards));
    app.start_all(2);
    let (gone, stays) = (app.create_user("gone"), app.create_user("stays"));
    app.everywhere(&gone.key, Verdict::Accepted);
    app.everywhere(&stays.key, Verdict::Accepted);

    link.set_link(Link::Down);
    for replica in &app.replicas {
        eventually(DEADLINE, "the replica to notice", || {
            replica.status(app.http())["state"] == "disconnected"
        });
    }
    let deleted = app
        .admin("DELETE", &format!("/users/{}", gone.id), None)
        .expect("B answers");
    assert_eq!(deleted.status, 204, "{}", deleted.text);
    // The relay has published it to nobody.
    eventually(DEADLINE, "an empty outbox", || {
        app.sql("SELECT count(*) FROM outbox").trim() == "0"
    });
    assert_eq!(app.verdict(&app.replicas[0], &gone.key), Verdict::Accepted);

    link.set_link(Link::Up);
    app.everywhere(&gone.key, Verdict::Unknown);
    app.everywhere(&stays.key, Verdict::Accepted);
}

#[test]
fn a_subscription_broken_for_longer_than_the_limit_closes_the_replica() {
    let (setup, guards) = Setup::shared();
    let mut setup = setup.env("FAIL_CLOSED_AFTER_SECONDS", "5");
    let link = setup.relay_replicas_to_broker();
    let mut app = App::new(setup, Some(guards));
    app.start_all(1);
    let user = app.create_user("alice");
    app.everywhere(&user.key, Verdict::Accepted);
    link.set_link(Link::Down);
    app.everywhere(&user.key, Verdict::NotServing);
    eventually(DEADLINE, "the replica to be unready", || {
        app.replicas[0].ready(app.http()).is_err()
    });
    link.set_link(Link::Up);
    app.everywhere(&user.key, Verdict::Accepted);
    app.wait_ready();
}

#[test]
fn every_replica_proves_that_its_cache_equals_the_database() {
    let app = App::start();
    for number in 0..10 {
        let _ = app.create_user(&format!("user-{number}"));
    }
    let _ = app.sql("UPDATE users SET daily_quota = user_id; DELETE FROM users WHERE user_id < 4");
    let sequence = || app.sql("SELECT sequence FROM relay_state").parse().ok();
    eventually(DEADLINE, "all changes numbered", || {
        app.sql("SELECT count(*) FROM outbox").trim() == "0"
    });
    for replica in &app.replicas {
        eventually(DEADLINE, "a proof at the last number", || {
            let status = replica.status(app.http());
            status["proven_sequence"].as_i64() == sequence()
        });
        assert_eq!(replica.status(app.http())["users"], 7);
        let mismatches = replica.metric(app.http(), "identity_events_total", "mismatch");
        assert!(mismatches.abs() < f64::EPSILON);
    }
}

#[test]
fn drift_that_no_trigger_saw_is_healed_by_a_full_sync() {
    let app = App::start();
    let user = app.create_user("alice");
    app.everywhere(&user.key, Verdict::Accepted);
    let _ = app.sql(
        "BEGIN; ALTER TABLE users DISABLE TRIGGER ALL; UPDATE users SET is_active = false;
         ALTER TABLE users ENABLE TRIGGER ALL;
         ALTER TABLE users ENABLE ALWAYS TRIGGER users_before; COMMIT",
    );
    for replica in &app.replicas {
        assert_eq!(app.verdict(replica, &user.key), Verdict::Accepted);
    }
    let (ok, output) = app.cli(&["publish_all_users"]);
    assert!(ok, "{output}");
    app.everywhere(&user.key, Verdict::Inactive);
}

#[test]
fn a_full_sync_asked_for_by_rest_completes_and_is_applied_by_every_replica() {
    let app = App::start();
    for number in 0..50 {
        let _ = app.create_user(&format!("user-{number}"));
    }
    let answer = app.admin("POST", "/full-syncs", None).expect("B answers");
    assert_eq!(answer.status, 202, "{}", answer.text);
    let sync_id = answer.body["sync_id"].as_str().expect("sync_id").to_owned();
    let sync = eventually(DEADLINE, "the full sync to end", || {
        let answer = app.admin("GET", &format!("/full-syncs/{sync_id}"), None)?;
        anyhow::ensure!(
            answer.body["status"] != "requested" && answer.body["status"] != "running",
            "{}",
            answer.text
        );
        Ok(answer.body)
    });
    assert_eq!(sync["status"], "completed", "{sync}");
    assert_eq!(sync["users_published"], 50);
    for _ in &app.replicas {
        eventually(DEADLINE, "both replicas to report it", || {
            app.sql(&format!(
                "SELECT count(*) FROM replicas WHERE last_sync_id = '{sync_id}' AND users = 50"
            ))
            .trim()
                == "2"
        });
    }
}

#[test]
fn a_need_that_a_snapshot_under_way_cannot_meet_is_asked_for_as_another() {
    let (setup, guards) = Setup::shared();
    let (management, vhost) = (guards.1.management().clone(), guards.1.name().to_owned());
    let mut app = App::new(setup, Some(guards));
    // Without a server B: the test takes its place.
    app.start_a();
    let request = || {
        eventually(DEADLINE, "a request", || -> anyhow::Result<Value> {
            let requests = management.get_messages(&vhost, "config_snapshot_requests", 100)?;
            let mut bodies = requests.iter().filter_map(|it| it["payload"].as_str());
            let request = bodies.find(|body| body.contains("request_id"));
            Ok(serde_json::from_str(request.context("none")?)?)
        })
    };
    let first = request();
    let queue = first["queue"].as_str().expect("a queue");
    let deleted = |sequence: i64| {
        json!({"user_id": 1, "api_key": null, "version": sequence, "epoch": 1, "sequence": sequence,
               "occurred_at": "2026-01-01T00:00:00Z"})
    };
    let started = json!({"snapshot_id": first["request_id"], "credit_queue": queue, "window": 16});
    // The start, and a gap behind it.
    for (kind, body) in [
        ("snapshot.started", started),
        ("user.deleted", deleted(5)),
        ("user.deleted", deleted(7)),
    ] {
        let properties = json!({"type": kind});
        let body = body.to_string();
        management
            .publish(&vhost, "", queue, &properties, body.as_bytes())
            .expect("the broker takes it");
    }
    let second = request();
    assert_eq!(second["cause"], "gap", "{second}");
    assert_ne!(second["request_id"], first["request_id"], "{second}");
}
