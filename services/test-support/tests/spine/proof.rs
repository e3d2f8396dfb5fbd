//! A replica proves that its cache equals the database, and notices when it cannot.

use anyhow::ensure;
use serde_json::json;
use test_support::app::{App, DEADLINE, Setup, Verdict};
use test_support::eventually;

#[test]
fn an_audit_without_drift_finds_none_while_users_change() {
    let (setup, guards) = Setup::shared();
    let mut app = App::new(setup.env("AUDIT_INTERVAL_SECONDS", "1"), Some(guards));
    app.start_all(1);
    let b = app.server_b.as_ref().expect("server B runs");
    let mut number = 0;
    eventually(DEADLINE, "three audits", || {
        number += 1;
        let _ = app.sql(&format!(
            "INSERT INTO users (username) VALUES ('user-{number}')"
        ));
        b.metric(app.http(), "identity_audits_total", "equal") >= 3.0
    });
    assert!(b.metric(app.http(), "identity_audits_total", "drift") < 0.5);
    let replica = &app.replicas[0];
    assert!(replica.metric(app.http(), "identity_events_total", "mismatch") < 0.5);
}

#[test]
fn a_lost_binding_is_noticed_and_mended() {
    let (setup, guards) = Setup::shared();
    let (management, vhost) = (guards.1.management().clone(), guards.1.name().to_owned());
    let mut app = App::new(setup, Some(guards));
    app.start_all(1);
    let user = app.create_user("alice");
    app.everywhere(&user.key, Verdict::Accepted);
    // The publisher declares the exchange again; nobody else knows that the bindings went with it.
    management
        .delete_exchange(&vhost, "config_events_exchange")
        .expect("the exchange can be deleted");
    let _ = app.sql("UPDATE users SET is_active = false");
    app.everywhere(&user.key, Verdict::Inactive);
    let status = app.replicas[0].status(app.http());
    let error = status["last_error"].as_str().unwrap_or_default();
    assert!(error.contains("binding is lost"), "{status}");
}

#[test]
fn a_replica_serves_on_when_server_b_is_gone_and_stops_at_the_staleness_limit() {
    let (setup, guards) = Setup::shared();
    let mut app = App::new(setup.env("MAX_STALENESS_SECONDS", "5"), Some(guards));
    app.start_all(1);
    let user = app.create_user("alice");
    app.everywhere(&user.key, Verdict::Accepted);
    app.kill_b();
    let replica = &app.replicas[0];
    eventually(DEADLINE, "the proof to run out", || {
        replica.status(app.http())["proven"] == false
    });
    assert_eq!(app.verdict(replica, &user.key), Verdict::Accepted);
    app.everywhere(&user.key, Verdict::NotServing);
    app.start_b();
    app.everywhere(&user.key, Verdict::Accepted);
}

#[test]
fn a_write_that_waits_returns_when_every_live_replica_has_applied_it() {
    let app = App::start();
    let user = app.create_user("alice");
    let url = format!(
        "{}/admin/v1/users/{}?wait=all",
        app.server_b.as_ref().expect("server B runs").url,
        user.id
    );
    let answer = app
        .admin_call("PATCH", &url, Some(&json!({"is_active": false})))
        .expect("B answers");
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.header("replicas-applied"), "a-0, a-1");
    assert_eq!(answer.header("replicas-waiting"), "");
    for replica in &app.replicas {
        assert_eq!(app.verdict(replica, &user.key), Verdict::Inactive);
    }

    let id = user.id.to_string();
    let (ok, output) = app.cli(&["users", "update", &id, "--active", "true", "--wait"]);
    assert!(ok && output.contains("applied by 2 replicas"), "{output}");
    for replica in &app.replicas {
        assert_eq!(app.verdict(replica, &user.key), Verdict::Accepted);
    }
    let (ok, output) = app.cli(&["replicas", "--wait", "--output", "json"]);
    assert!(ok, "{output}");
    let replicas: serde_json::Value = serde_json::from_str(&output).expect("JSON");
    assert_eq!(replicas.as_array().map(Vec::len), Some(2), "{output}");
    assert!(replicas[0]["proven_sequence"].is_i64(), "{output}");
}

#[test]
fn a_wait_names_the_replica_that_has_not_applied_the_change_in_time() {
    let app = App::start();
    let user = app.create_user("alice");
    app.everywhere(&user.key, Verdict::Accepted);
    app.replicas[1]
        .process
        .kill9()
        .expect("a replica can be killed");
    let id = user.id.to_string();
    let arguments = [
        "users",
        "update",
        &id,
        "--active",
        "false",
        "--wait",
        "--wait-seconds",
        "2",
    ];
    let (ok, output) = app.cli(&arguments);
    // It is counted as live until its lease has run out: it might be serving, cut off.
    assert!(!ok && output.contains("a-1"), "{output}");

    let path = format!("/users/{id}?wait=all&wait_seconds=1");
    let body = json!({"daily_quota": 7});
    let answer = app.admin("PATCH", &path, Some(&body)).expect("B answers");
    assert_eq!(answer.status, 200, "the change is made: {}", answer.text);
    assert_eq!(answer.header("replicas-applied"), "a-0");
    assert_eq!(answer.header("replicas-waiting"), "a-1");
}

#[test]
fn the_status_tells_where_the_cache_stands_what_is_proven_and_how_it_got_there() {
    let (setup, guards) = Setup::shared();
    let setup = setup.env("AUDIT_INTERVAL_SECONDS", "1");
    let mut app = App::new(setup, Some(guards));
    app.start_all(1);
    let _ = app.create_user("alice");
    app.converged(DEADLINE);
    let digest = app.sql("SELECT encode(digest, 'hex') FROM relay_state");
    eventually(DEADLINE, "an audit to be told of", || {
        let status = app.replicas[0].status(app.http());
        ensure!(status["audited_at"].is_string(), "{status}");
        assert_eq!(status["state"], "synced", "{status}");
        assert_eq!(
            (&status["users"], &status["digest"]),
            (&json!(1), &json!(digest))
        );
        assert_eq!(
            (&status["epoch"], &status["sequence"]),
            (&json!(1), &json!(1))
        );
        let proven = (
            &status["proven"],
            &status["proven_epoch"],
            &status["proven_sequence"],
        );
        assert_eq!(proven, (&json!(true), &json!(1), &json!(1)), "{status}");
        for time in ["since", "proven_at"] {
            assert!(status[time].is_string(), "{time}: {status}");
        }
        let age = status["staleness_seconds"].as_f64().expect("a number");
        assert!((0.0..30.0).contains(&age), "{status}");
        let snapshot = &status["last_snapshot"];
        assert_eq!(
            (&snapshot["cause"], &snapshot["users"]),
            (&json!("connected"), &json!(0))
        );
        assert!(
            snapshot["duration_seconds"].is_f64() && snapshot["at"].is_string(),
            "{status}"
        );
        assert!(status["last_error"].is_null(), "{status}");
        Ok(())
    });
}

#[test]
fn a_replica_ahead_of_the_database_makes_it_begin_an_epoch() {
    let mut app = App::start();
    for number in 0..5 {
        let _ = app.create_user(&format!("user-{number}"));
    }
    app.converged(DEADLINE);
    app.kill_b();
    let _ = app.sql("UPDATE relay_state SET sequence = 1");
    app.start_b();
    app.converged(DEADLINE);
    assert_eq!(app.sql("SELECT epoch FROM relay_state"), "2");
}
