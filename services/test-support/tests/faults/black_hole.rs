//! Packets of the replicas' subscriptions alone are dropped; everything else goes on.

use std::collections::HashSet;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;
use test_support::app::{App, DEADLINE, Node, Setup, Verdict, bulk_key};
use test_support::{TcpRelay, eventually};

use crate::{alone, count};

/// In the name of the connection that brings the stream to a replica.
const SUBSCRIPTION: &str = "server-a cache sync";
/// "Within 5 s of healing 0 of 1,000 accepted."
const HEALED_WITHIN: Duration = Duration::from_secs(5);
/// Number of a user that [`revoke`] deactivates.
const DEACTIVATED: u64 = 3;
/// Between two sends through each replica.
const PAUSE: Duration = Duration::from_millis(50);

#[test]
fn a_black_holed_subscription_closes_the_replicas_in_time_and_lets_no_revoked_key_in_once_healed() {
    let _alone = alone();
    let (revoked, limit, silence) = (count(1000, 100), count(15, 5), count(60, 12));
    let (limit, silence) = (Duration::from_secs(limit), Duration::from_secs(silence));
    let (setup, guards) = Setup::shared();
    let mut setup = setup.env("FAIL_CLOSED_AFTER_SECONDS", &limit.as_secs().to_string());
    let link = setup.relay_replicas_to_broker();
    let mut app = App::new(setup, Some(guards));
    app.start_all(2);
    app.bulk_users(2 * revoked);
    app.converged(DEADLINE);

    link.silence_naming(Some(SUBSCRIPTION));
    let silent = Instant::now();
    revoke(&app, revoked);
    let in_force = Instant::now();
    eventually(DEADLINE, "the revocations to be published", || {
        app.sql("SELECT count(*) FROM outbox") == "0"
    });
    let sends = send_until_refused(&app, in_force);
    assert!(
        sends.accepted > 0,
        "the replicas must have missed the revocations, and be able to publish"
    );
    assert!(
        sends.last_accepted <= limit,
        "a revoked key was let in after {:?}",
        sends.last_accepted
    );
    stay_refused(&app, revoked, silent + silence);
    nothing_else_was_cut(&app, &link);

    link.silence_naming(None);
    let (served_again, let_in) = check_healed(&app, revoked);
    assert_eq!(let_in, 0, "revoked keys let in after healing");
    println!(
        "1 black hole of {} s: {} sends with revoked keys accepted until {:.1} s after the revocation (limit {} s), \
         then refused; {let_in} of {revoked} revoked keys accepted after healing, the others again after {:.1} s",
        silence.as_secs(),
        sends.accepted,
        sends.last_accepted.as_secs_f64(),
        limit.as_secs(),
        served_again.as_secs_f64()
    );
    app.converged(DEADLINE);
    let late = "identity_sms_admitted_after_revocation_total";
    let b = app.server_b.as_ref().expect("server B runs");
    eventually(DEADLINE, "server B to refuse to dispatch them", || {
        let refused = b.metric(app.http(), late, "");
        ensure!(
            (refused - f64::from(sends.accepted)).abs() < 0.5,
            "{refused}"
        );
        Ok(())
    });
}

/// The first `count` users: deactivated, without a key, or deleted, a third each.
fn revoke(app: &App, count: u64) {
    let those = |rest: u32| {
        format!(
            "SELECT user_id FROM users, substr(username, 6) AS number
             WHERE number::int <= {count} AND number::int % 3 = {rest}"
        )
    };
    let _ = app.sql(&format!(
        "UPDATE users SET is_active = false WHERE user_id IN ({});
         DELETE FROM api_keys WHERE user_id IN ({});
         DELETE FROM users WHERE user_id IN ({})",
        those(0),
        those(1),
        those(2)
    ));
}

/// What a replica must say of the key of a user with this number.
fn expected(number: u64, revoked: u64) -> Verdict {
    match number {
        _ if number > revoked => Verdict::Accepted,
        _ if number.is_multiple_of(3) => Verdict::Inactive,
        _ => Verdict::Unknown,
    }
}

fn key(number: u64) -> String {
    bulk_key(&format!("user-{number}"))
}

struct Sends {
    accepted: u32,
    /// From the revocation to the start of the last send that was accepted.
    last_accepted: Duration,
}

/// Sends SMS with a revoked key through every replica until all refuse.
fn send_until_refused(app: &App, revoked_at: Instant) -> Sends {
    let mut closed = HashSet::new();
    let mut sends = Sends {
        accepted: 0,
        last_accepted: Duration::ZERO,
    };
    while closed.len() < app.replicas.len() {
        for replica in &app.replicas {
            let sent = revoked_at.elapsed();
            assert!(sent < DEADLINE, "a replica does not close");
            let answer = app.send(replica, &key(DEACTIVATED)).expect("A answers");
            if answer.status == 202 {
                sends.accepted += 1;
                sends.last_accepted = sent;
            } else {
                assert_eq!(answer.status, 503, "{}", answer.text);
                assert_eq!(answer.body["code"], "cache_not_ready", "{}", answer.text);
                closed.insert(replica.process.id());
            }
        }
        thread::sleep(PAUSE);
    }
    sends
}

fn stay_refused(app: &App, revoked: u64, until: Instant) {
    for number in (1..=2 * revoked).cycle() {
        if Instant::now() >= until {
            return;
        }
        for replica in &app.replicas {
            assert_eq!(app.verdict(replica, &key(number)), Verdict::NotServing);
        }
        thread::sleep(PAUSE);
    }
}

/// The publishing connections of the replicas have lived through it.
fn nothing_else_was_cut(app: &App, link: &TcpRelay) {
    for replica in &app.replicas {
        let status = replica.status(app.http());
        assert_eq!(status["state"], "disconnected", "{status}");
        assert_eq!(status["connects"], 1, "{status}");
        let publisher = &status["sms_publisher"];
        assert_eq!(publisher["connected"], true, "{status}");
        assert_eq!(publisher["connects"], 1, "{status}");
    }
    // Reports to server B go on.
    let forwarded = link.bytes_to_server();
    eventually(DEADLINE, "the link to carry something", || {
        link.bytes_to_server() > forwarded
    });
}

/// From now on in time all replicas serve again, and say of every key what they must. Gives when the last one served,
/// and how many revoked keys were let in.
fn check_healed(app: &App, revoked: u64) -> (Duration, usize) {
    let healed = Instant::now();
    let check = |replica: &Node| {
        let mut let_in = 0;
        let mut probes = (1..=revoked).cycle();
        eventually(HEALED_WITHIN, "the replica to serve again", || {
            let probe = probes.next().unwrap_or(1);
            let_in += usize::from(app.verdict(replica, &key(probe)) == Verdict::Accepted);
            app.verdict(replica, &key(2 * revoked)) == Verdict::Accepted
        });
        let served_again = healed.elapsed();
        for number in 1..=2 * revoked {
            let verdict = app.verdict(replica, &key(number));
            let_in += usize::from(number <= revoked && verdict == Verdict::Accepted);
            assert_eq!(verdict, expected(number, revoked), "of user {number}");
        }
        (served_again, let_in)
    };
    let checked: Vec<(Duration, usize)> = thread::scope(|scope| {
        let check = &check;
        let checks: Vec<_> = app
            .replicas
            .iter()
            .map(|replica| scope.spawn(move || check(replica)))
            .collect();
        checks
            .into_iter()
            .map(|check| check.join().expect("a replica is healed"))
            .collect()
    });
    let served_again = checked.iter().map(|(at, _)| *at).max().unwrap_or_default();
    assert!(served_again <= HEALED_WITHIN, "{served_again:?}");
    (served_again, checked.iter().map(|(_, let_in)| let_in).sum())
}
