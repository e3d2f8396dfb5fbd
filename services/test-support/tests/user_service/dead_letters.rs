//! What can never become a row is set aside with its reason, and the command line handles it.

use std::collections::BTreeMap;

use anyhow::ensure;
use serde_json::Value;
use test_support::app::DEADLINE;
use test_support::eventually;

use crate::harness::{DEAD, LONG, QUEUE, UserService, drain};

#[test]
fn a_thousand_malformed_messages_among_ten_thousand_are_dead_lettered_with_reasons() {
    let (mut users, _database, vhost) = UserService::shared();
    users.start(1);
    users.auth_events(&["--count", "10000", "--malformed", "1000", "--first-id", "1"]);
    users.wait_stored(LONG, 10_000);
    wait_dead_lettered(&users, 1000.0);

    let letters = list(&users);
    assert_eq!(letters.len(), 1000);
    let mut reasons = BTreeMap::new();
    for letter in &letters {
        assert_eq!(letter["source"], QUEUE);
        assert!(letter["dead_since"].is_string(), "{letter}");
        let reason = letter["reason"].as_str().expect("a reason").to_owned();
        assert!(!letter.to_string().contains("example.com"), "{letter}");
        *reasons.entry(reason).or_insert(0) += 1;
    }
    println!("{reasons:#?}");
    // The tool makes 8 kinds in turn.
    assert!(reasons.len() >= 7, "{reasons:?}");
    let output = users.replicas[0].process.output();
    assert!(!output.contains("example.com"));
    let (good, table) = users.cli("dead-letters", &["list", "--limit", "3"]);
    assert!(good && table.contains("3 of 1000 dead letters"), "{table}");

    // What is still wrong comes back, and nothing is lost on the way.
    let (good, output) = users.cli("dead-letters", &["requeue", "--limit", "10"]);
    assert!(good && output.contains("10 messages"), "{output}");
    wait_dead_lettered(&users, 1010.0);
    let (good, output) = users.cli("dead-letters", &["requeue"]);
    assert!(good && output.contains("1000 messages"), "{output}");
    wait_dead_lettered(&users, 2010.0);
    assert_eq!(list(&users).len(), 1000);

    let (good, output) = users.cli("dead-letters", &["purge"]);
    assert!(!good && output.contains("--all"), "{output}");
    assert_eq!(list(&users).len(), 1000);
    let (good, output) = users.cli("dead-letters", &["purge", "--all"]);
    assert!(good && output.contains("1000 messages"), "{output}");
    assert!(list(&users).is_empty());

    users.stop();
    assert!(drain(&vhost, QUEUE).is_empty());
    assert!(drain(&vhost, DEAD).is_empty());
}

#[test]
fn a_dead_letter_that_was_mended_becomes_a_reference_when_it_is_requeued() {
    let (mut users, database, vhost) = UserService::shared();
    // A table that refuses one user stands for whatever was wrong.
    let (good, output) = users.cli("migrate", &[]);
    assert!(good, "{output}");
    let sql = |sql| database.sql(sql).expect("the database takes it");
    sql("ALTER TABLE auth_user_references ADD CONSTRAINT not_five CHECK (user_id <> 5)");
    users.start(1);
    users.auth_events(&["--count", "10", "--first-id", "1"]);
    wait_dead_lettered(&users, 1.0);
    users.wait_stored(DEADLINE, 9);
    let letters = list(&users);
    assert_eq!(letters[0]["user_id"], 5);
    let reason = letters[0]["reason"].as_str().expect("a reason");
    assert!(reason.contains("23514"), "{reason}");

    sql("ALTER TABLE auth_user_references DROP CONSTRAINT not_five");
    let (good, output) = users.cli("dead-letters", &["requeue"]);
    assert!(good, "{output}");
    users.wait_stored(DEADLINE, 10);
    users.stop();
    assert!(drain(&vhost, DEAD).is_empty());
}

fn wait_dead_lettered(users: &UserService, expected: f64) {
    eventually(LONG, "the dead letters", || {
        let seen = users.metric("dead_lettered");
        ensure!(seen >= expected, "{seen} of {expected}");
        Ok(())
    });
}

fn list(users: &UserService) -> Vec<Value> {
    let (good, output) = users.cli(
        "dead-letters",
        &["list", "--limit", "5000", "--output", "json"],
    );
    assert!(good, "{output}");
    serde_json::from_str(&output).expect("a JSON array")
}
