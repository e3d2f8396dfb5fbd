//! A replica refuses early what goes beyond the quota, by what server B broadcasts. The broadcasts here are the test's own:
//! server B is killed once the users are known.

use anyhow::ensure;
use serde_json::{Value, json};
use test_support::Answer;
use test_support::app::{App, DEADLINE, Node, Setup, TestUser, Verdict};
use test_support::eventually;
use test_support::servers::Management;

/// Replicas that know their users, and nobody else who broadcasts.
struct World {
    app: App,
    management: Management,
    vhost: String,
    today: String,
}

impl World {
    fn start<const N: usize>(replicas: usize, quotas: [i32; N]) -> (Self, [TestUser; N]) {
        let (setup, guards) = Setup::shared();
        let (management, vhost) = (guards.1.management().clone(), guards.1.name().to_owned());
        let mut app = App::new(setup, Some(guards));
        app.start_all(replicas);
        let mut number = 0;
        let users = quotas.map(|quota| {
            number += 1;
            app.create_user_with_quota(&format!("user-{number}"), quota)
        });
        for user in &users {
            app.everywhere(&user.key, Verdict::Accepted);
        }
        for replica in &app.replicas {
            eventually(DEADLINE, "the queue of usage", || {
                let status = replica.status(app.http());
                let connected = &status["sms_usage"]["connection"]["connected"];
                ensure!(*connected == true, "{status}");
                Ok(())
            });
        }
        app.kill_b();
        let today = app.sql("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD')");
        let world = Self {
            app,
            management,
            vhost,
            today,
        };
        (world, users)
    }

    fn broadcast(&self, body: &str) {
        let properties = json!({"type": "sms.usage"});
        eventually(DEADLINE, "the broadcast to be routed", || {
            let body = body.as_bytes();
            self.management
                .publish(&self.vhost, "sms_usage_exchange", "", &properties, body)
                .is_ok_and(|routed| routed)
        });
    }

    fn used(&self, day: &str, user: &TestUser, segments: u32) {
        let users = [json!({"user_id": user.id, "segments": segments})];
        self.broadcast(&json!({"day": day, "users": users}).to_string());
    }

    fn dry_run(&self, replica: &Node, user: &TestUser) -> Value {
        let body = json!({"to": "+14155550123", "body": "hi", "dry_run": true});
        let answer = replica.send(self.app.http(), &user.key, &body);
        let answer = answer.expect("A answers");
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.body["quota_left"].clone()
    }

    /// Waits until every replica says that so much is left.
    fn left_everywhere(&self, user: &TestUser, left: u32) {
        for replica in &self.app.replicas {
            eventually(DEADLINE, "the broadcast to be taken in", || {
                let seen = self.dry_run(replica, user);
                ensure!(seen == left, "{seen} left");
                Ok(())
            });
        }
    }

    fn send(&self, replica: &Node, user: &TestUser, characters: usize) -> Answer {
        let body = json!({"to": "+14155550123", "body": "a".repeat(characters)});
        let answer = replica.send(self.app.http(), &user.key, &body);
        answer.expect("A answers")
    }

    fn metric(&self, name: &str, labels: &str) -> f64 {
        self.app.replicas[0].metric(self.app.http(), name, labels)
    }
}

#[test]
fn every_replica_refuses_what_goes_beyond_the_quota_that_server_b_tells_of() {
    let (world, [user, none]) = World::start(2, [10, 0]);
    world.used(&world.today, &user, 8);
    world.left_everywhere(&user, 2);
    for replica in &world.app.replicas {
        let refused = world.send(replica, &user, 400);
        assert_eq!(refused.status, 429, "{}", refused.text);
        assert_eq!(refused.body["code"], "quota_exceeded");
        let seconds: u32 = refused.header("retry-after").parse().expect("seconds");
        assert!((1..=86_400).contains(&seconds), "{seconds}");
        assert_eq!(
            refused.header("ratelimit"),
            format!("\"daily\";r=2;t={seconds}")
        );

        let accepted = world.send(replica, &user, 10);
        assert_eq!(accepted.status, 202, "{}", accepted.text);
        assert!(accepted.header("ratelimit").starts_with("\"daily\";r=1;t="));
        let policy = "\"daily\";q=10;w=86400;qu=\"segments\"";
        assert_eq!(accepted.header("ratelimit-policy"), policy);
        // A quota of nothing needs no broadcast.
        assert_eq!(world.send(replica, &none, 1).status, 429);
    }

    // An older number, another day, and what is no usage change nothing; the next one counts.
    world.used(&world.today, &user, 3);
    world.used("2020-01-01", &user, 10);
    world.broadcast("{\"day\": 5}");
    world.used(&world.today, &user, 9);
    world.left_everywhere(&user, 1);
    let name = "identity_usage_broadcasts_total";
    for (outcome, count) in [("applied", 3.0), ("other_day", 1.0), ("malformed", 1.0)] {
        let seen = world.metric(name, &format!("\"{outcome}\""));
        assert!((seen - count).abs() < 0.5, "{outcome}: {seen}");
    }
    let rejected = "identity_sms_rejected_total";
    assert!(world.metric(rejected, "\"quota_exceeded\"") > 1.5);
    assert!(world.metric("identity_usage_age_seconds", "") < 60.0);
}

/// The bound of what is let in beyond the quota: replicas × what each accepts between two broadcasts about the user.
#[test]
fn without_a_broadcast_each_of_four_replicas_lets_the_quota_in_once_and_with_one_nothing_more() {
    let (world, [user]) = World::start(4, [25]);
    for replica in &world.app.replicas {
        let statuses: Vec<u16> = (0..30)
            .map(|_| world.send(replica, &user, 1).status)
            .collect();
        let accepted = statuses.iter().filter(|status| **status == 202).count();
        assert_eq!(accepted, 25, "{statuses:?}");
        assert!(
            statuses[25..].iter().all(|status| *status == 429),
            "{statuses:?}"
        );
    }
    world.used(&world.today, &user, 25);
    world.left_everywhere(&user, 0);
    for replica in &world.app.replicas {
        assert_eq!(world.send(replica, &user, 1).status, 429);
    }
}

#[test]
fn what_server_b_did_not_charge_is_let_in_again_after_its_next_broadcast() {
    let (world, [user]) = World::start(1, [10]);
    let replica = &world.app.replicas[0];
    for _ in 0..10 {
        assert_eq!(world.send(replica, &user, 1).status, 202);
    }
    assert_eq!(world.send(replica, &user, 1).status, 429);
    world.used(&world.today, &user, 4);
    world.left_everywhere(&user, 6);
    assert_eq!(world.send(replica, &user, 1).status, 202);
}

#[test]
fn a_user_that_asks_too_often_gets_429_and_others_do_not() {
    let (setup, guards) = Setup::shared();
    let setup = setup
        .env("USER_REQUESTS_PER_SECOND", "1")
        .env("USER_REQUESTS_BURST", "5");
    let mut app = App::new(setup, Some(guards));
    app.start_all(1);
    let (alice, bob) = (app.create_user("alice"), app.create_user("bob"));
    let replica = &app.replicas[0];
    let limited = eventually(DEADLINE, "a send too many", || {
        let answer = app.send(replica, &alice.key).expect("A answers");
        (answer.status == 429).then_some(answer)
    });
    assert_eq!(limited.body["code"], "rate_limited");
    let seconds: u32 = limited.header("retry-after").parse().expect("seconds");
    assert!(seconds >= 1, "{seconds}");
    eventually(DEADLINE, "bob to be known", || {
        app.send(replica, &bob.key).expect("A answers").status == 202
    });
    eventually(DEADLINE, "alice to be let in again", || {
        app.send(replica, &alice.key).expect("A answers").status == 202
    });
}
