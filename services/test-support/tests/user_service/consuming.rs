//! Every event becomes one row, whatever is repeated, contradicted or killed.

use std::thread;

use anyhow::ensure;
use test_support::app::DEADLINE;
use test_support::eventually;

use crate::harness::{DEAD, LONG, QUEUE, UserService, drain, event, publish};

#[test]
fn an_event_is_stored_as_it_says_and_a_second_with_other_data_changes_nothing_and_is_counted() {
    let (mut users, _database, vhost) = UserService::shared();
    users.start(1);
    let state = || users.replicas[0].status(&users.http);
    eventually(DEADLINE, "the consumer to be connected", || {
        state()["connections"]["user_created_consumer"]["connected"] == true
    });
    eventually(DEADLINE, "the queue to be bound", || {
        let bindings = vhost
            .management()
            .bindings(vhost.name(), "auth_events_exchange")?;
        ensure!(bindings.len() == 1, "{bindings:?}");
        Ok(())
    });
    publish(&vhost, &event(123, "john@example.com"));
    users.wait_stored(DEADLINE, 1);
    for email in ["john@example.com", "mallory@example.com"] {
        publish(&vhost, &event(123, email));
    }
    eventually(DEADLINE, "both repetitions", || {
        let counts = (users.metric("duplicates"), users.metric("conflicts"));
        ensure!(counts == (2.0, 1.0), "{counts:?}");
        Ok(())
    });
    let row = users
        .sql(
            "SELECT user_id, username, email, occurred_at = '2009-02-13T23:31:30.123Z'
             FROM auth_user_references",
        )
        .expect("the table is there");
    assert_eq!(row, "123|johndoe|john@example.com|t");
    let output = users.replicas[0].process.output();
    assert!(!output.contains("example.com"), "{output}");
    users.stop();
    assert!(drain(&vhost, DEAD).is_empty());
}

#[test]
fn conflicts_within_one_batch_are_counted_and_the_first_event_counts() {
    let (mut users, _database, vhost) = UserService::shared();
    // Declares the queue, so that all events wait for the first batch.
    users.auth_events(&["--count", "0"]);
    for email in [
        "first@example.com",
        "second@example.com",
        "first@example.com",
    ] {
        publish(&vhost, &event(7, email));
    }
    users.start(1);
    eventually(DEADLINE, "the repetitions", || {
        let counts = (users.metric("duplicates"), users.metric("conflicts"));
        ensure!(counts == (2.0, 1.0), "{counts:?}");
        Ok(())
    });
    let email = users.sql("SELECT email FROM auth_user_references");
    assert_eq!(email.expect("the table is there"), "first@example.com");
}

#[test]
fn a_batch_whose_replica_is_killed_before_the_commit_is_stored_by_another() {
    let (mut users, database, vhost) = UserService::shared();
    let (good, output) = users.cli("migrate", &[]);
    assert!(good, "{output}");
    users.auth_events(&["--count", "1000", "--first-id", "1"]);
    let end_of = |whose: &str| {
        let ended = database.sql(&format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid() AND {whose}"
        ));
        ended.expect("the database answers")
    };
    thread::scope(|scope| {
        // Lets nobody commit, until its session is ended below.
        let lock = "BEGIN; LOCK auth_user_references IN EXCLUSIVE MODE; SELECT pg_sleep(3600)";
        scope.spawn(|| database.sql(lock).expect_err("the session is ended"));
        eventually(DEADLINE, "the lock", || {
            let locks = "SELECT count(*) FROM pg_locks WHERE mode = 'ExclusiveLock' AND granted
                         AND relation = 'auth_user_references'::regclass";
            database.sql(locks).is_ok_and(|count| count == "1")
        });
        users.start(1);
        eventually(DEADLINE, "a batch to wait for the lock", || {
            let waiting = "SELECT count(*) FROM pg_stat_activity
                           WHERE datname = current_database() AND wait_event_type = 'Lock'";
            database.sql(waiting).is_ok_and(|count| count == "1")
        });
        let victim = users.replicas.remove(0);
        victim.process.kill9().expect("it can be killed");
        // The server would else go on with a statement whose client has gone.
        assert_eq!(end_of("wait_event_type = 'Lock'"), "t");
        assert_eq!(users.stored().expect("the database answers"), 0);
        end_of("query LIKE '%pg_sleep%'");
    });
    users.start(1);
    users.wait_stored(DEADLINE, 1000);
    assert!(
        users.metric("events_redelivered") > 0.0,
        "nothing came back"
    );
    users.stop();
    assert!(drain(&vhost, QUEUE).is_empty());
}

#[test]
fn a_hundred_thousand_events_through_three_replicas_of_which_one_is_killed_half_way() {
    const USERS: u64 = 90_000;
    let (mut users, _database, vhost) = UserService::shared();
    // All before the start, so that the replica that is killed has a full prefetch in hand.
    users.auth_events(&[
        "--count",
        "100000",
        "--duplicates-percent",
        "10",
        "--first-id",
        "1",
    ]);
    users.start(3);
    eventually(LONG, "half of the users", || {
        let stored = users.stored()?;
        ensure!(stored >= USERS / 2, "{stored}");
        Ok(())
    });
    let victim = users.replicas.remove(0);
    let handled = victim.metric(&users.http, "user_service_events_received_total", "");
    victim.process.kill9().expect("it can be killed");
    let stored = users.stored().expect("the database answers");
    println!("killed after {handled} deliveries, {stored} users stored");
    assert!(handled > 0.0, "it must have had a part");
    assert!(stored < USERS, "the kill must come before the end");

    users.wait_stored(LONG, USERS);
    eventually(LONG, "the queue to be empty", || {
        let queue = vhost.management().queue(vhost.name(), QUEUE)?;
        let messages = queue.map_or(0, |queue| queue["messages"].as_u64().unwrap_or(0));
        ensure!(messages == 0, "{messages} messages");
        Ok(())
    });
    assert!(
        users.metric("events_redelivered") > 0.0,
        "nothing was in flight"
    );
    assert_eq!(users.metric("conflicts").to_bits(), 0.0_f64.to_bits());
    // Whatever a replica had not acked would return now.
    users.stop();
    assert!(drain(&vhost, QUEUE).is_empty());
    assert!(drain(&vhost, DEAD).is_empty());
    let ids = users.sql(
        "SELECT min(user_id), max(user_id), count(*) FROM auth_user_references
         WHERE username = 'user-' || user_id AND email = username || '@example.com'",
    );
    assert_eq!(
        ids.expect("the database answers"),
        format!("1|{USERS}|{USERS}")
    );
}
