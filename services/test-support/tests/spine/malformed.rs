//! A malformed message is counted and set aside, and the consumer goes on.

use serde_json::json;
use test_support::app::{App, DEADLINE, Setup, Verdict};
use test_support::eventually;

const GARBAGE: &str = r#"{"user_id": "not a number", "api_key": "isk_garbage_canary""#;

#[test]
fn garbage_on_the_exchange_is_counted_by_every_replica_and_the_cache_goes_on() {
    let (setup, guards) = Setup::shared();
    let (management, vhost) = (guards.1.management().clone(), guards.1.name().to_owned());
    let mut app = App::new(setup, Some(guards));
    app.start_all(2);
    for (event, body) in [
        ("user.updated", GARBAGE),
        ("user.renamed", "{}"),
        ("", "[]"),
    ] {
        management
            .publish(
                &vhost,
                "config_events_exchange",
                "",
                &json!({"type": event}),
                body.as_bytes(),
            )
            .expect("the broker takes it");
    }
    for replica in &app.replicas {
        eventually(DEADLINE, "the garbage to be counted", || {
            let malformed =
                replica.metric(app.http(), "identity_events_ignored_total", "malformed");
            let unknown =
                replica.metric(app.http(), "identity_events_ignored_total", "unknown_event");
            anyhow::ensure!(malformed >= 1.0 && unknown >= 2.0, "{malformed} {unknown}");
            Ok(())
        });
    }
    let user = app.create_user("alice");
    app.everywhere(&user.key, Verdict::Accepted);
    assert!(!app.output().contains("garbage_canary"));
}

#[test]
fn garbage_among_the_sms_is_dead_lettered_with_its_reason_and_the_next_sms_is_stored() {
    let (setup, guards) = Setup::shared();
    let (management, vhost) = (guards.1.management().clone(), guards.1.name().to_owned());
    let mut app = App::new(setup, Some(guards));
    app.start_all(1);
    let user = app.create_user("alice");
    app.everywhere(&user.key, Verdict::Accepted);
    // The one is as much as our frames of 16 KiB hold, so it could not be passed on with a reason; the other is more.
    let long = |bytes| json!({"tracestate": "x".repeat(bytes)});
    for (event, headers, body) in [
        ("sms.submitted", json!({}), GARBAGE),
        ("sms.unheard", long(16_200), "{}"),
        ("sms.unheard", long(100_000), "{}"),
    ] {
        management
            .publish(
                &vhost,
                "",
                "sms_outbound_queue",
                &json!({"type": event, "headers": headers}),
                body.as_bytes(),
            )
            .expect("the broker takes it");
    }
    let answer = app.send(&app.replicas[0], &user.key).expect("A answers");
    assert_eq!(answer.status, 202, "{}", answer.text);
    eventually(DEADLINE, "the good SMS to be stored", || {
        app.sql("SELECT count(*) FROM sms_messages").trim() == "1"
    });
    let dead = eventually(DEADLINE, "three dead letters", || {
        let dead = management.get_messages(&vhost, "sms_outbound_queue.dead", 10)?;
        anyhow::ensure!(dead.len() == 3, "{} dead letters", dead.len());
        Ok(dead)
    });
    for letter in dead {
        let headers = &letter["properties"]["headers"];
        assert_eq!(headers["x-dead-source"], "sms_outbound_queue");
        let reason = headers["x-dead-reason"].as_str().expect("a reason");
        assert!(!reason.is_empty() && !reason.contains("canary"), "{reason}");
    }
    assert!(!app.output().contains("garbage_canary"));
}

#[test]
fn garbage_for_server_b_does_not_stop_snapshots_and_reports() {
    let (setup, guards) = Setup::shared();
    let (management, vhost) = (guards.1.management().clone(), guards.1.name().to_owned());
    let mut app = App::new(setup, Some(guards));
    app.start_all(1);
    let foreign = json!({
        "request_id": "01900000-0000-7000-8000-000000000001", "queue": "sms_outbound_queue",
        "instance": "mallory", "cause": "connected"
    });
    for body in [GARBAGE.to_owned(), foreign.to_string()] {
        for queue in ["config_snapshot_requests", "config_replica_reports"] {
            management
                .publish(
                    &vhost,
                    "",
                    queue,
                    &json!({"type": "snapshot.request"}),
                    body.as_bytes(),
                )
                .expect("the broker takes it");
        }
    }
    app.start_a();
    app.wait_ready();
    eventually(DEADLINE, "reports of both replicas", || {
        app.sql("SELECT count(*) FROM replicas WHERE ready").trim() == "2"
    });
    // Nobody may have B send a snapshot into another queue.
    assert_eq!(app.sql("SELECT count(*) FROM sms_messages").trim(), "0");
    assert!(!app.output().contains("garbage_canary"));
}
