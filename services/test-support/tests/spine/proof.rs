//! A replica proves that its cache equals the database, and notices when it cannot.

use serde_json::json;
use test_support::app::{App, DEADLINE, Setup, Verdict};
use test_support::eventually;

#[test]
fn drift_made_behind_the_triggers_is_found_by_an_audit_and_healed_on_every_replica() {
    let (setup, guards) = Setup::shared();
    let mut app = App::new(setup.env("AUDIT_INTERVAL_SECONDS", "1"), Some(guards));
    app.start_all(2);
    let (alice, bob) = (app.create_user("alice"), app.create_user("bob"));
    app.everywhere(&bob.key, Verdict::Accepted);
    let _ = app.sql(&format!(
        "BEGIN; ALTER TABLE users DISABLE TRIGGER ALL;
         UPDATE users SET is_active = false WHERE user_id = {};
         ALTER TABLE users ENABLE TRIGGER ALL; ALTER TABLE users ENABLE ALWAYS TRIGGER users_before; COMMIT",
        alice.id
    ));
    app.everywhere(&alice.key, Verdict::Inactive);
    app.everywhere(&bob.key, Verdict::Accepted);
    let b = app.server_b.as_ref().expect("server B runs");
    assert!(b.metric(app.http(), "identity_audits_total", "drift") >= 1.0);
    for replica in &app.replicas {
        eventually(DEADLINE, "a new proof", || {
            replica.status(app.http())["proven"] == true
        });
    }
}

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
}

#[test]
fn a_database_restored_to_an_older_state_begins_an_epoch_to_which_every_replica_converges() {
    let (setup, guards) = Setup::shared();
    let database = guards
        .0
        .url()
        .rsplit_once('/')
        .expect("a name")
        .1
        .to_owned();
    let mut app = App::new(setup, Some(guards));
    app.start_all(2);
    let old = app.create_user("old");
    app.everywhere(&old.key, Verdict::Accepted);
    let admin = |app: &App, sql: &str| app.sql_on("postgres", sql);

    // The backup: the whole database as it is now.
    app.kill_b();
    admin(
        &app,
        &format!("CREATE DATABASE {database}_backup TEMPLATE {database}"),
    );
    app.start_b();
    app.wait_ready();
    let new = app.create_user("new");
    let _ = app.sql(&format!(
        "UPDATE users SET is_active = false WHERE user_id = {}",
        old.id
    ));
    app.everywhere(&new.key, Verdict::Accepted);
    app.everywhere(&old.key, Verdict::Inactive);

    app.kill_b();
    admin(&app, &format!("DROP DATABASE {database} WITH (FORCE)"));
    admin(
        &app,
        &format!("ALTER DATABASE {database}_backup RENAME TO {database}"),
    );
    app.start_b();
    app.everywhere(&new.key, Verdict::Unknown);
    app.everywhere(&old.key, Verdict::Accepted);
    for replica in &app.replicas {
        eventually(DEADLINE, "a proof in the new epoch", || {
            let status = replica.status(app.http());
            anyhow::ensure!(status["proven"] == true && status["epoch"] == 2, "{status}");
            Ok(())
        });
    }
    let third = app.create_user("third");
    app.everywhere(&third.key, Verdict::Accepted);
}
