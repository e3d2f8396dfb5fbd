//! Processes start in any order and become ready by themselves.

use std::time::{Duration, Instant};

use test_support::app::{App, DEADLINE, Setup, Verdict};
use test_support::{Link, eventually};

/// "Becomes ready by itself within 5 s of their return."
const BY_ITSELF: Duration = Duration::from_secs(5);

#[test]
fn zero_users_is_a_valid_ready_cache() {
    let app = App::start();
    for replica in &app.replicas {
        assert_eq!(replica.status(app.http())["users"], 0);
        assert_eq!(app.verdict(replica, "isk_nobody"), Verdict::Unknown);
    }
}

#[test]
fn a_replica_without_a_broker_lives_unready_and_becomes_ready_when_it_returns() {
    let (mut setup, guards) = Setup::shared();
    let link = setup.relay_replicas_to_broker();
    let mut app = App::new(setup, Some(guards));
    app.start_all(0);
    let user = app.create_user("alice");
    link.set_link(Link::Down);
    app.start_a();
    let replica = &app.replicas[0];
    eventually(DEADLINE, "the replica to have tried", || {
        !replica.status(app.http())["last_error"].is_null()
    });
    let live = app
        .http()
        .get(&format!("{}/livez", replica.admin_url))
        .expect("the replica lives");
    assert_eq!(live.status, 200);
    assert_eq!(app.verdict(replica, &user.key), Verdict::NotServing);

    link.set_link(Link::Up);
    let returned = Instant::now();
    app.wait_ready();
    assert!(returned.elapsed() < BY_ITSELF, "{:?}", returned.elapsed());
    assert_eq!(app.verdict(replica, &user.key), Verdict::Accepted);
}

#[test]
fn a_replica_without_server_b_lives_unready_and_becomes_ready_when_it_comes() {
    let (setup, guards) = Setup::shared();
    let mut app = App::new(setup, Some(guards));
    app.start_a();
    let replica = &app.replicas[0];
    eventually(DEADLINE, "the replica to be connected", || {
        replica.status(app.http())["state"] == "awaiting_snapshot"
    });
    assert!(replica.ready(app.http()).is_err());
    app.start_b();
    let b = app.server_b.as_ref().expect("just started");
    eventually(DEADLINE, "server B to be ready", || b.ready(app.http()));
    let returned = Instant::now();
    app.wait_ready();
    assert!(returned.elapsed() < BY_ITSELF, "{:?}", returned.elapsed());
}

#[test]
fn server_b_without_database_and_broker_lives_and_becomes_ready_when_they_come() {
    let (mut setup, guards) = Setup::shared();
    let broker = setup.relay_b_to_broker();
    let database = setup.relay_b_to_database();
    broker.set_link(Link::Down);
    database.set_link(Link::Down);
    let mut app = App::new(setup, Some(guards));
    app.start_b();
    let b = app.server_b.as_ref().expect("just started");
    let live = app
        .http()
        .get(&format!("{}/livez", b.admin_url))
        .expect("B lives");
    assert_eq!(live.status, 200);
    let unready = b.ready(app.http()).expect_err("no database").to_string();
    assert!(unready.contains("database"), "{unready}");
    let refused = app.admin("GET", "/users", None).expect("B answers");
    assert_eq!(refused.status, 503, "{}", refused.text);

    database.set_link(Link::Up);
    eventually(DEADLINE, "server B to be ready", || b.ready(app.http()));
    let user = app.create_user("alice");
    broker.set_link(Link::Up);
    app.start_a();
    app.wait_ready();
    app.everywhere(&user.key, Verdict::Accepted);
}
