//! A committed change by any write path reaches every replica; an aborted one reaches none.

use std::fmt::Write as _;

use serde_json::json;
use test_support::app::{App, DEADLINE, Setup, Verdict};
use test_support::{Link, eventually};

#[test]
fn a_user_created_by_rest_is_accepted_by_every_replica() {
    let app = App::start();
    let user = app.create_user("alice");
    app.everywhere(&user.key, Verdict::Accepted);
}

#[test]
fn a_user_changed_by_rest_and_by_the_command_line_is_seen_by_every_replica() {
    let app = App::start();
    let user = app.create_user("alice");
    app.everywhere(&user.key, Verdict::Accepted);

    let path = format!("/users/{}", user.id);
    let patched = app
        .admin("PATCH", &path, Some(&json!({"is_active": false})))
        .expect("B answers");
    assert_eq!(patched.status, 200, "{}", patched.text);
    app.everywhere(&user.key, Verdict::Inactive);

    let id = user.id.to_string();
    let (ok, output) = app.cli(&["users", "update", &id, "--active", "true"]);
    assert!(ok, "{output}");
    app.everywhere(&user.key, Verdict::Accepted);

    let (ok, output) = app.cli(&["users", "delete", &id]);
    assert!(ok, "{output}");
    app.everywhere(&user.key, Verdict::Unknown);
}

#[test]
fn a_change_made_in_psql_reaches_every_replica() {
    let app = App::start();
    let (first, second) = (app.create_user("alice"), app.create_user("bob"));
    app.everywhere(&second.key, Verdict::Accepted);

    let _ = app.sql("UPDATE users SET is_active = false");
    app.everywhere(&first.key, Verdict::Inactive);
    app.everywhere(&second.key, Verdict::Inactive);

    let _ = app.sql(&format!("DELETE FROM users WHERE user_id = {}", first.id));
    app.everywhere(&first.key, Verdict::Unknown);

    let _ = app.sql("UPDATE users SET is_active = true");
    app.everywhere(&second.key, Verdict::Accepted);
    // SQL may expire keys.
    let _ = app.sql("UPDATE api_keys SET expires_at = now()");
    app.everywhere(&second.key, Verdict::Unknown);
    app.assert_no_faults();
}

#[test]
fn an_aborted_transaction_reaches_no_replica() {
    let app = App::start();
    let user = app.create_user("alice");
    app.everywhere(&user.key, Verdict::Accepted);
    let _ = app.sql("BEGIN; UPDATE users SET is_active = false; DELETE FROM users; ROLLBACK");
    // What is committed after it arrives, so the aborted one would have, too.
    let marker = app.create_user("marker");
    app.everywhere(&marker.key, Verdict::Accepted);
    for replica in &app.replicas {
        assert_eq!(app.verdict(replica, &user.key), Verdict::Accepted);
        assert_eq!(replica.status(app.http())["sequence"], 2);
    }
}

#[test]
fn users_imported_from_csv_reach_every_replica() {
    let app = App::start();
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let mut csv = "username,daily_quota,is_active,api_key\n".to_owned();
    for number in 0..2_500 {
        let _ = writeln!(csv, "user-{number},{number},true,imported-key-{number:05}");
    }
    std::fs::write(file.path(), csv).expect("the CSV file is written");
    let file = file.path().display().to_string();
    let (ok, output) = app.cli(&["users", "import", &file, "--wait", "--wait-seconds", "60"]);
    assert!(ok && output.contains("applied by 2 replicas"), "{output}");
    for number in [0, 1_234, 2_499] {
        let key = format!("imported-key-{number:05}");
        for replica in &app.replicas {
            assert_eq!(app.verdict(replica, &key), Verdict::Accepted);
        }
    }
    for replica in &app.replicas {
        eventually(DEADLINE, "all users in the cache, proven", || {
            let status = replica.status(app.http());
            status["users"] == 2_500 && status["proven"] == true
        });
        let snapshots = replica.metric(app.http(), "identity_snapshots_total", "");
        assert!(
            (snapshots - 1.0).abs() < 0.5,
            "by events alone, not by {snapshots} snapshots"
        );
    }
    app.assert_no_faults();
}

#[test]
fn many_changes_in_one_transaction_arrive_in_their_order() {
    let app = App::start();
    let _ =
        app.sql("INSERT INTO users (username) SELECT 'user-' || i FROM generate_series(1, 3000) i");
    let _ = app.sql("UPDATE users SET daily_quota = daily_quota + 1");
    let _ = app.sql("DELETE FROM users WHERE user_id % 2 = 0");
    for replica in &app.replicas {
        eventually(DEADLINE, "all changes in the cache, proven", || {
            let status = replica.status(app.http());
            status["users"] == 1_500 && status["proven"] == true
        });
    }
    app.assert_no_faults();
}

#[test]
fn what_could_not_be_written_on_the_wire_is_refused_by_the_database() {
    let app = App::start();
    let user = app.create_user("alice");
    for date in ["10000-01-01", "infinity", "0500-01-01 BC"] {
        let refused = app.try_sql(&format!("UPDATE api_keys SET expires_at = '{date}'"));
        assert!(refused.is_err(), "{date}");
    }
    assert!(app.try_sql("TRUNCATE users CASCADE").is_err());
    assert!(
        app.try_sql("UPDATE users SET user_id = user_id + 1")
            .is_err()
    );
    app.everywhere(&user.key, Verdict::Accepted);
    app.assert_no_faults();
}

#[test]
fn what_was_committed_before_server_b_was_killed_is_published_by_the_next() {
    let (mut setup, guards) = Setup::shared();
    let link = setup.relay_b_to_broker();
    let mut app = App::new(setup, Some(guards));
    app.start_all(2);
    let users: Vec<_> = (0..20)
        .map(|number| app.create_user(&format!("user-{number}")))
        .collect();
    for user in &users {
        app.everywhere(&user.key, Verdict::Accepted);
    }

    // Between commit and publish: the change is committed, and cannot be published.
    link.set_link(Link::Silent);
    let _ = app.sql("UPDATE users SET is_active = false");
    app.kill_b();
    let waiting: i64 = app
        .sql("SELECT count(*) FROM outbox")
        .trim()
        .parse()
        .expect("a count");
    assert_eq!(waiting, 20, "the fault must hit between commit and publish");

    link.set_link(Link::Up);
    app.start_b();
    for user in &users {
        app.everywhere(&user.key, Verdict::Inactive);
    }
    eventually(DEADLINE, "an empty outbox", || {
        app.sql("SELECT count(*) FROM outbox").trim() == "0"
    });
}
