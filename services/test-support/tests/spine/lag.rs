//! The lag that replicas measure is the time from the commit of a change until it is in effect.

use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::json;
use test_support::app::{App, DEADLINE, Node, Setup, TestUser, Verdict};
use test_support::{Http, eventually};

/// Changes that are timed from outside, one after the other.
const CHANGES: u32 = 200;
/// How far the mean that is measured inside may be above what is seen from outside: a thread of a busy machine may be put
/// aside between the effect and its measurement. Below it cannot be.
const TOLERANCE: Duration = Duration::from_millis(2);
/// How far those bounds may be apart in the mean, or they would tell nothing.
const RESOLUTION: Duration = Duration::from_millis(50);

/// A histogram of one replica.
struct Histogram {
    count: f64,
    sum: f64,
    within_a_second: f64,
}

impl Histogram {
    fn of(replica: &Node, http: &Http, name: &str) -> Self {
        let part = |part: &str, labels| replica.metric(http, &format!("{name}_{part}"), labels);
        Self {
            count: part("count", ""),
            sum: part("sum", ""),
            within_a_second: part("bucket", "le=\"1\""),
        }
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            count: self.count - before.count,
            sum: self.sum - before.sum,
            within_a_second: self.within_a_second - before.within_a_second,
        }
    }
}

fn lag(app: &App, replica: &Node) -> Histogram {
    Histogram::of(replica, app.http(), "identity_event_lag_seconds")
}

#[test]
fn a_transaction_that_takes_seconds_is_no_lag() {
    const USERS: u32 = 1_200;
    let app = App::start();
    app.bulk_users(USERS.into());
    app.converged(DEADLINE);
    let before: Vec<_> = app
        .replicas
        .iter()
        .map(|replica| lag(&app, replica))
        .collect();
    let began = Instant::now();
    let _ = app.sql("BEGIN; UPDATE users SET daily_quota = 7; SELECT pg_sleep(3); COMMIT");
    assert!(began.elapsed() > Duration::from_secs(3));
    for (replica, before) in app.replicas.iter().zip(&before) {
        let lag = eventually(DEADLINE, "all changes applied", || {
            let lag = lag(&app, replica).since(before);
            ensure!(lag.count >= f64::from(USERS), "{}", lag.count);
            Ok(lag)
        });
        let late = lag.count - lag.within_a_second;
        let mean = lag.sum / lag.count;
        println!("{} changes, {mean:.4} s in the mean", lag.count);
        assert!(
            late < 0.5,
            "{late} of {} changes over 1 s, {mean} s in the mean",
            lag.count
        );
    }
}

/// A change as it is seen from outside: it was committed between `sent` and `answered`, and took effect between
/// `not_yet` and `seen`.
struct Observed {
    sent: Instant,
    answered: Instant,
    not_yet: Instant,
    seen: Instant,
}

impl Observed {
    fn at_least(&self) -> Duration {
        self.not_yet.saturating_duration_since(self.answered)
    }

    fn at_most(&self) -> Duration {
        self.seen - self.sent
    }
}

fn change(app: &App, user: &TestUser, active: bool) -> Observed {
    let replica = &app.replicas[0];
    let expected = if active {
        Verdict::Accepted
    } else {
        Verdict::Inactive
    };
    let path = format!("/users/{}", user.id);
    let sent = Instant::now();
    let answer = app.admin("PATCH", &path, Some(&json!({"is_active": active})));
    let answered = Instant::now();
    assert_eq!(answer.expect("B answers").status, 200);
    let mut not_yet = answered;
    loop {
        let asked = Instant::now();
        // Without a pause: this is what the lag is compared with.
        if app.verdict(replica, &user.key) == expected {
            return Observed {
                sent,
                answered,
                not_yet,
                seen: Instant::now(),
            };
        }
        not_yet = asked;
        assert!(sent.elapsed() < DEADLINE, "the change does not arrive");
    }
}

#[test]
fn the_lag_of_single_changes_is_what_is_seen_from_outside() {
    let (setup, guards) = Setup::shared();
    let mut app = App::new(setup, Some(guards));
    app.start_all(1);
    let user = app.create_user("alice");
    app.everywhere(&user.key, Verdict::Accepted);
    app.converged(DEADLINE);
    let replica = &app.replicas[0];
    let revocations = || {
        let name = "identity_revocation_effect_seconds";
        Histogram::of(replica, app.http(), name)
    };
    let (lag_before, revocations_before) = (lag(&app, replica), revocations());

    let seen: Vec<Observed> = (0..CHANGES)
        .map(|number| change(&app, &user, number % 2 == 1))
        .collect();

    let lag = eventually(DEADLINE, "all changes measured", || {
        let lag = lag(&app, replica).since(&lag_before);
        ensure!(lag.count >= f64::from(CHANGES), "{}", lag.count);
        Ok(lag)
    });
    assert!(
        (lag.count - f64::from(CHANGES)).abs() < 0.5,
        "{}",
        lag.count
    );
    let inside = Duration::from_secs_f64(lag.sum / lag.count);
    let at_least = seen.iter().map(Observed::at_least).sum::<Duration>() / CHANGES;
    let at_most = seen.iter().map(Observed::at_most).sum::<Duration>() / CHANGES;
    println!("inside {inside:?}, outside {at_least:?} to {at_most:?}");
    assert!(
        at_most < at_least + RESOLUTION,
        "{at_least:?} to {at_most:?}"
    );
    assert!(
        inside >= at_least && inside <= at_most + TOLERANCE,
        "inside {inside:?}, outside {at_least:?} to {at_most:?}"
    );
    // Every other change took the right to send away.
    let revocations = revocations().since(&revocations_before);
    assert!((revocations.count - f64::from(CHANGES / 2)).abs() < 0.5);
    assert!(revocations.sum < lag.sum);
}
