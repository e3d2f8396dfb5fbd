//! Broker and database come and go; user-service answers, loses nothing and mends itself.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use test_support::app::{DEADLINE, Node};
use test_support::servers::{Postgres, PostgresOptions};
use test_support::{Http, Link, TcpRelay, TestServers, eventually};

use crate::harness::{DEAD, LONG, QUEUE, UserService, drain};

/// Seconds that the broker is away from the start of the process, if not 30 as issue and CI want it.
const BROKER_AWAY_VAR: &str = "USER_SERVICE_BROKER_AWAY_SECONDS";
/// "Events consumed within 5 s of its return."
const CONSUMED_WITHIN: Duration = Duration::from_secs(5);
/// An answer that takes longer was waiting for something.
const PROMPT: Duration = Duration::from_secs(2);
const EVENTS: u64 = 50_000;

#[test]
fn a_broker_that_is_away_at_the_start_keeps_nobody_waiting_and_is_found_when_it_returns() {
    let (mut users, _database, vhost) = UserService::shared();
    users.auth_events(&["--count", "1000", "--first-id", "1"]);
    let relay = relay_to(vhost.url());
    relay.set_link(Link::Down);
    users.rabbitmq_url = through(vhost.url(), relay.address());
    let (began, away) = (Instant::now(), broker_away());
    users.start(1);
    let node = &users.replicas[0];
    let first_seen = consumer_state(node, &users.http);
    let mut answers = 0_u32;
    eventually(away + DEADLINE, "the time to pass", || -> Result<()> {
        answer_promptly(node, &users.http);
        answers += 1;
        let tries = node.process.output().matches("connection down").count();
        let passed = began.elapsed();
        ensure!(passed >= away && tries >= 5, "{passed:?}, {tries} tries");
        Ok(())
    });
    println!("{answers} rounds of requests answered while the broker was away");
    let state = consumer_state(node, &users.http);
    assert_eq!(state["connected"], false);
    assert_eq!(state["since"], first_seen["since"], "since when it is away");
    let why = state["last_error"].as_str().expect("why it is away");
    assert!(why.contains(&relay.address().to_string()), "{why}");
    assert_eq!(users.stored().expect("the database answers"), 0);

    relay.set_link(Link::Up);
    let returned = Instant::now();
    users.wait_stored(CONSUMED_WITHIN, 1000);
    let took = returned.elapsed();
    println!("consumed {took:?} after the broker's return");
    assert!(took <= CONSUMED_WITHIN, "{took:?}");
    eventually(DEADLINE, "/status to say so", || {
        consumer_state(node, &users.http)["connected"] == true
    });
    users.stop();
    assert!(drain(&vhost, QUEUE).is_empty());
}

#[test]
fn a_connection_that_is_cut_again_and_again_loses_nothing() {
    let (mut users, _database, vhost) = UserService::shared();
    users.auth_events(&["--count", "20000", "--first-id", "1"]);
    let relay = relay_to(vhost.url());
    users.rabbitmq_url = through(vhost.url(), relay.address());
    users.start(1);
    for part in 1..=4 {
        eventually(LONG, "a further part", || {
            let stored = users.stored()?;
            ensure!(stored >= part * 3000, "{stored}");
            Ok(())
        });
        relay.cut_once();
    }
    users.wait_stored(LONG, 20_000);
    let state = consumer_state(&users.replicas[0], &users.http);
    let connects = state["connects"].as_u64().unwrap_or(0);
    assert!(connects >= 2, "{state}");
    users.stop();
    assert!(drain(&vhost, DEAD).is_empty());
}

#[test]
fn a_database_that_is_restarted_in_the_middle_costs_no_event_and_no_redelivery() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let options = PostgresOptions::default();
    let mut postgres = Postgres::start(dir.path(), &options).expect("PostgreSQL starts");
    postgres.ensure_database("users").expect("a database");
    let vhost = TestServers::shared().fresh_vhost();
    let mut users = UserService::on(vhost.url(), &postgres.url("users"));
    let count = EVENTS.to_string();
    users.auth_events(&["--count", &count, "--first-id", "1"]);
    users.start(1);

    // Once in order, once as by a crash.
    for (part, crash) in [(5000, false), (20_000, true)] {
        eventually(LONG, "a part of the events", || {
            let stored = users.stored()?;
            ensure!(stored >= part, "{stored}");
            Ok(())
        });
        let stopped = if crash {
            postgres.kill9()
        } else {
            postgres.stop()
        };
        stopped.expect("PostgreSQL can be stopped");
        waits_without_spinning(&users);
        postgres.start_again().expect("PostgreSQL starts again");
    }

    users.wait_stored(LONG, EVENTS);
    let node = &users.replicas[0];
    eventually(DEADLINE, "the replica to be ready", || {
        node.ready(&users.http)
    });
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let expected = EVENTS as f64;
    eventually(DEADLINE, "all deliveries", || {
        let received = users.metric("events_received");
        ensure!((received - expected).abs() < 0.5, "{received}");
        Ok(())
    });
    users.stop();
    assert!(drain(&vhost, QUEUE).is_empty());
    assert!(drain(&vhost, DEAD).is_empty());
}

/// While the database is away: unready and 503, alive, connected to the broker, and one batch in hand instead of
/// deliveries going round.
fn waits_without_spinning(users: &UserService) {
    let node = &users.replicas[0];
    let tries = || node.process.output().matches("trying again").count();
    let tries_before = tries();
    eventually(DEADLINE, "the replica to be unready", || {
        node.ready(&users.http).is_err()
    });
    let answer = users.get("/api/v1/auth-user-references/1");
    assert_eq!(answer.status, 503, "{}", answer.text);
    assert_eq!(answer.content_type, "application/problem+json");
    eventually(DEADLINE, "a try with the batch in hand", || {
        tries() > tries_before
    });
    let (tries_then, received) = (tries(), users.metric("events_received"));
    eventually(DEADLINE, "further tries", || tries() >= tries_then + 2);
    let later = users.metric("events_received");
    assert!((received - later).abs() < 0.5, "{received}, then {later}");
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let all = EVENTS as f64;
    assert!(received < all, "the outage must come before the end");
    let state = consumer_state(node, &users.http);
    assert_eq!(state["connected"], true, "{state}");
    let live = users.http.get(&format!("{}/livez", node.admin_url));
    assert_eq!(live.expect("it lives").status, 200);
}

fn answer_promptly(node: &Node, http: &Http) {
    let (api, admin) = (&node.url, &node.admin_url);
    for (url, status) in [
        (format!("{api}/api/v1/auth-user-references"), 200),
        (format!("{api}/api/v1/auth-user-references/1"), 404),
        (format!("{admin}/livez"), 200),
        (format!("{admin}/readyz"), 200),
        (format!("{admin}/metrics"), 200),
    ] {
        let asked = Instant::now();
        let answer = http.get(&url).expect("user-service answers");
        assert_eq!(answer.status, status, "{url}: {}", answer.text);
        let took = asked.elapsed();
        assert!(took < PROMPT, "{url} took {took:?}");
    }
    // Other tests need the processor too.
    thread::yield_now();
}

fn consumer_state(node: &Node, http: &Http) -> serde_json::Value {
    node.status(http)["connections"]["user_created_consumer"].clone()
}

fn broker_away() -> Duration {
    let seconds = std::env::var(BROKER_AWAY_VAR).map_or(30, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{BROKER_AWAY_VAR}: `{text}` is not a number of seconds"))
    });
    Duration::from_secs(seconds)
}

/// A relay in front of the server that a URL names.
fn relay_to(url: &str) -> TcpRelay {
    let (_, rest) = url.split_once('@').expect("a URL with a user");
    let (address, _) = rest.split_once('/').expect("a URL with a path");
    let address: SocketAddr = address.parse().expect("an address and a port");
    TcpRelay::start(address).expect("the relay starts")
}

/// The URL that goes through a relay.
fn through(url: &str, relay: SocketAddr) -> String {
    let (front, rest) = url.split_once('@').expect("a URL with a user");
    let (_, path) = rest.split_once('/').expect("a URL with a path");
    format!("{front}@{relay}/{path}")
}
