//! Ten replicas restart at once under load.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;
use test_support::app::{App, DEADLINE, Node, Setup, Verdict, bulk_key};
use test_support::eventually;

use crate::count;

const REPLICAS: usize = 10;
/// Few enough that ten processes that start at once on two CPUs leave room for them.
const WRITES_PER_SECOND: u32 = 200;
/// Requests with valid keys that each replica gets once it is ready.
const REQUESTS: u64 = 300;

/// What one replica did after its start.
struct Restart {
    ready_after: Duration,
    /// Requests with valid keys that were answered 503 before.
    too_early: u64,
}

#[test]
fn ten_replicas_restarted_at_once_refuse_no_valid_key_and_share_one_read_of_the_table() {
    let _alone = crate::alone();
    let users = count(100_000, 10_000);
    let (setup, guards) = Setup::shared();
    let mut app = App::new(setup, Some(guards));
    app.start_all(0);
    app.bulk_users(users);
    app.start_at_once(REPLICAS);
    app.wait_ready();
    app.converged(DEADLINE);
    // Whatever is written, each key stays valid.
    let writer = app.writer(WRITES_PER_SECOND, move |number| {
        format!(
            "UPDATE users SET daily_quota = daily_quota + 1 WHERE username = 'user-{}'",
            number * 7_919 % users + 1
        )
    });
    eventually(DEADLINE, "the load to be on", || writer.written() > 100);

    let before = reads(&app);
    for replica in std::mem::take(&mut app.replicas) {
        replica.process.kill9().expect("a replica can be killed");
    }
    app.start_at_once(REPLICAS);
    let restarts: Vec<Restart> = thread::scope(|scope| {
        let watched: Vec<_> = (app.replicas.iter())
            .map(|replica| scope.spawn(|| restarted(&app, replica, users)))
            .collect();
        (watched.into_iter())
            .map(|replica| replica.join().expect("see above"))
            .collect()
    });
    app.wait_ready();
    let written = writer.stop();
    app.converged(DEADLINE);
    let read = reads(&app) - before;
    let log = || app.server_b.as_ref().map(|b| b.process.last_lines(40));
    assert_eq!(read, 1, "{}", log().unwrap_or_default());
    let slowest = restarts.iter().map(|restart| restart.ready_after).max();
    let too_early: u64 = restarts.iter().map(|restart| restart.too_early).sum();
    assert!(too_early > 0, "nobody asked before they were ready");
    println!(
        "6 restart: {REPLICAS} replicas at once with {users} users under {written} writes: ready after {:.1} s, none \
         before it was complete; {too_early} requests before answered 503, {} after accepted, no valid key refused; {read} read \
         of the table",
        slowest.unwrap_or_default().as_secs_f64(),
        REQUESTS * REPLICAS as u64
    );
}

/// Follows a replica from its start: as long as it is not ready it refuses to serve, rather than a key.
fn restarted(app: &App, replica: &Node, users: u64) -> Restart {
    let started = Instant::now();
    let mut too_early = 0;
    let verdict = |number: u64| {
        let user = number * 7_919 % users + 1;
        app.verdict(replica, &bulk_key(&format!("user-{user}")))
    };
    eventually(DEADLINE, "a restarted replica to be ready", || {
        let ready = replica.ready(app.http());
        if ready.is_err() {
            match verdict(too_early) {
                Verdict::NotServing => too_early += 1,
                // It became ready in between.
                seen => assert_eq!(seen, Verdict::Accepted),
            }
        }
        ready
    });
    let ready_after = started.elapsed();
    let status = replica.status(app.http());
    assert_eq!(status["users"], users, "ready with {status}");
    for number in 0..REQUESTS {
        assert_eq!(verdict(number), Verdict::Accepted, "user {number}");
    }
    Restart {
        ready_after,
        too_early,
    }
}

#[test]
fn replicas_that_reconnect_at_once_share_one_read_of_the_table() {
    let _alone = crate::alone();
    let replicas = usize::try_from(count(50, 10)).expect("few");
    let (mut setup, guards) = Setup::shared();
    let link = setup.relay_replicas_to_broker();
    let mut app = App::new(setup, Some(guards));
    app.start_all(0);
    app.start_at_once(replicas);
    app.wait_ready();
    let user = app.create_user("alice");
    app.everywhere(&user.key, Verdict::Accepted);

    let before = reads(&app);
    link.cut_once();
    let cut = Instant::now();
    for replica in &app.replicas {
        eventually(DEADLINE, "a proof on a new connection", || {
            let status = replica.status(app.http());
            ensure!(
                status["connects"] == 2 && status["proven"] == true,
                "{status}"
            );
            Ok(())
        });
    }
    let reads = reads(&app) - before;
    println!(
        "reconnect: {replicas} replicas at once are proven again after {:.1} s by {reads} read of the table",
        cut.elapsed().as_secs_f64()
    );
    assert_eq!(reads, 1);
    app.everywhere(&user.key, Verdict::Accepted);
}

/// How often server B has read the table for snapshots since it was started.
fn reads(app: &App) -> u64 {
    let b = app.server_b.as_ref().expect("server B runs");
    let reads = b.metric(app.http(), "identity_snapshot_reads_total", "");
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a small count"
    )]
    let reads = reads as u64;
    reads
}
