//! A million users: snapshots that are cut, revocations that overtake them, and the memory that server B needs.

use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::Value;
use test_support::app::{App, DEADLINE, Node, Setup, Verdict, bulk_key};
use test_support::{TcpRelay, Writer, eventually};

use crate::stream::{assert_equal, counter};
use crate::{count, peak_memory, writes_per_second};

/// For what reads, sends or takes in all users.
const LONG: Duration = Duration::from_mins(10);
/// "A revocation during a snapshot and during a full sync is in force within 2 s."
const IN_FORCE_WITHIN: Duration = Duration::from_secs(2);
/// At most.
const REVOCATIONS: u64 = 20;
/// By so many users at most a replica's number differs while it lags behind a load of deletions and creations in turns.
const UNEVEN: u64 = 10;
/// Peak memory of server B with all users, beyond that with [`FEW`].
const FLAT_KIB: u64 = 32 * 1024;
const FEW: u64 = 10_000;

#[test]
fn a_million_users_survive_cut_snapshots_and_revocations_overtake_snapshots_and_full_syncs() {
    let _alone = crate::alone();
    let few = Crowd::gather(FEW).peak;
    let mut crowd = Crowd::gather(count(1_000_000, 50_000));
    println!(
        "3 memory: server B's peak while it serves a snapshot: {} MiB with {} users, {} MiB with {FEW}; snapshot of \
         {} MiB after {:.1} s",
        crowd.peak / 1024,
        crowd.users,
        few / 1024,
        crowd.bytes / (1024 * 1024),
        crowd.seconds
    );
    assert!(crowd.peak < few + FLAT_KIB, "{} KiB, {few} KiB", crowd.peak);

    let writer = crowd.load();
    crowd.cut_by_the_death_of_b();
    crowd.cut_by_the_loss_of_the_link();
    let snapshot = crowd.revocations_during_a_snapshot();
    let sync = crowd.revocations_during_a_full_sync();
    let written = writer.stop();
    assert_equal(&crowd.app, LONG);
    println!(
        "3 million: {} users under {written} writes, snapshots cut at half by the death of B and by the loss of the \
         link: nothing swept, difference 0; {} revocations during a snapshot in force within {} ms, {} during a full \
         sync within {} ms",
        crowd.users,
        snapshot.count,
        snapshot.slowest.as_millis(),
        sync.count,
        sync.slowest.as_millis()
    );
}

/// Users that were refused while a snapshot or a full sync was under way.
#[derive(Default)]
struct Revocations {
    count: u64,
    slowest: Duration,
}

/// Server B and one replica that has had its first snapshot.
struct Crowd {
    users: u64,
    link: TcpRelay,
    app: App,
    /// KiB that server B needed at most, since its start, until the replica was ready.
    peak: u64,
    /// Of the first snapshot, on the replica's link.
    bytes: u64,
    seconds: f64,
    revoked: u64,
}

impl Crowd {
    fn gather(users: u64) -> Self {
        let (setup, guards) = Setup::shared();
        // A closed replica would refuse everyone: seen are to be the revocations themselves.
        let mut setup = setup
            .env("FAIL_CLOSED_AFTER_SECONDS", "600")
            .env("AUDIT_INTERVAL_SECONDS", &count(20, 2).to_string());
        let link = setup.relay_replicas_to_broker();
        let mut app = App::new(setup, Some(guards));
        app.start_all(0);
        app.bulk_users(users);
        eventually(LONG, "all users to be relayed", || {
            app.sql("SELECT NOT EXISTS (SELECT FROM outbox)") == "t"
        });
        // A fresh one: what relaying needed does not count.
        app.kill_b();
        app.start_b();
        app.wait_ready();
        let began = Instant::now();
        app.start_a();
        eventually(LONG, "the first snapshot", || {
            app.replicas[0].ready(app.http())
        });
        let seconds = began.elapsed().as_secs_f64();
        let server_b = app.server_b.as_ref().expect("server B runs");
        let peak = peak_memory(&server_b.process).expect("server B runs");
        Self {
            users,
            peak,
            bytes: link.bytes_to_client(),
            seconds,
            revoked: 0,
            link,
            app,
        }
    }

    /// Nine of ten writes change a user; one deletes or creates one. The first tenth of the users is left alone.
    fn load(&self) -> Writer {
        let users = self.users;
        self.app
            .writers(2, writes_per_second(), move |number| match number % 20 {
                0 => format!(
                    "DELETE FROM users WHERE username = 'user-{}'",
                    users - number / 20
                ),
                10 => format!("INSERT INTO users (username) VALUES ('late-{number}')"),
                _ => format!(
                    "UPDATE users SET daily_quota = daily_quota + 1 WHERE username = 'user-{}'",
                    users / 10 + number * 7_919 % (users / 2)
                ),
            })
    }

    fn replica(&self) -> &Node {
        &self.app.replicas[0]
    }

    /// Makes the replica connect anew, and waits until it has got so many percent of the snapshot that follows.
    fn begin_snapshot(&self, percent: u64) {
        let wanted = self.link.bytes_to_client() + self.bytes * percent / 100;
        self.link.cut_once();
        eventually(LONG, "a part of a snapshot", || {
            self.link.bytes_to_client() >= wanted
        });
    }

    /// The cache still has everyone, and the snapshot had indeed been cut.
    fn nothing_swept(&self, completed: usize) {
        assert_eq!(self.snapshots(), completed, "a snapshot was not cut");
        let users = self.replica().status(self.app.http())["users"].as_u64();
        // The load deletes and creates in turns: what of it the replica has missed, or has yet to learn, changes the number
        // by a few, however much that is.
        let close = self.users - UNEVEN;
        assert!(users.is_some_and(|users| users >= close), "{users:?}");
        for user in 1..=20 {
            let key = bulk_key(&format!("user-{}", self.users / 10 - user));
            let verdict = self.app.verdict(self.replica(), &key);
            assert_eq!(verdict, Verdict::Accepted, "{user}");
        }
    }

    fn proven(&self) {
        eventually(LONG, "a proof", || {
            let status = self.replica().status(self.app.http());
            ensure!(status["proven"] == true, "{status}");
            Ok(())
        });
    }

    fn cut_by_the_death_of_b(&mut self) {
        let completed = self.snapshots();
        self.begin_snapshot(50);
        self.app.kill_b();
        let given_up = || {
            let name = "identity_sources_given_up_total";
            counter(&self.app, self.replica(), name, "kind=\"snapshot\"")
        };
        eventually(DEADLINE, "the snapshot to be given up", || given_up() == 1);
        self.nothing_swept(completed);
        self.app.start_b();
        self.proven();
    }

    fn cut_by_the_loss_of_the_link(&self) {
        let completed = self.snapshots();
        self.begin_snapshot(50);
        let connects = || self.replica().status(self.app.http())["connects"].as_u64();
        let before = connects();
        self.link.cut_once();
        eventually(DEADLINE, "another connection", || connects() > before);
        self.nothing_swept(completed);
        self.proven();
    }

    fn revocations_during_a_snapshot(&mut self) -> Revocations {
        let completed = self.snapshots();
        self.begin_snapshot(5);
        let revocations = self.revoke_while(|crowd| crowd.snapshots() == completed);
        self.proven();
        revocations
    }

    fn revocations_during_a_full_sync(&mut self) -> Revocations {
        let asked = self.app.admin("POST", "/full-syncs", None);
        let asked = asked.expect("B answers").body;
        let path = format!("/full-syncs/{}", asked["sync_id"].as_str().expect("an id"));
        let sync = |crowd: &Self| crowd.app.admin("GET", &path, None).expect("B answers").body;
        eventually(LONG, "a part of the full sync", || {
            let sync = sync(self);
            let published = sync["users_published"].as_u64().unwrap_or(0);
            ensure!(published >= self.users / 20, "{sync}");
            Ok(())
        });
        let revocations = self.revoke_while(|crowd| sync(crowd)["status"] == "running");
        eventually(LONG, "the full sync to end", || {
            let sync = sync(self);
            ensure!(sync["status"] == "completed", "{sync}");
            Ok(())
        });
        revocations
    }

    /// Revokes one user after the other, each in force within the limit, while it lasts.
    fn revoke_while(&mut self, lasts: impl Fn(&Self) -> bool) -> Revocations {
        let mut seen = Revocations::default();
        while seen.count < REVOCATIONS {
            self.revoked += 1;
            let name = format!("user-{}", self.revoked);
            let key = bulk_key(&name);
            assert_eq!(self.app.verdict(self.replica(), &key), Verdict::Accepted);
            let sql = format!("UPDATE users SET is_active = false WHERE username = '{name}'");
            let _ = self.app.sql(&sql);
            let committed = Instant::now();
            self.app.everywhere(&key, Verdict::Inactive);
            let took = committed.elapsed();
            assert!(took < IN_FORCE_WITHIN, "{took:?}");
            // One that was in force only after the end proves nothing.
            if !lasts(self) {
                break;
            }
            seen.count += 1;
            seen.slowest = seen.slowest.max(took);
        }
        assert!(seen.count > 0, "it was over too soon");
        seen
    }

    /// Snapshots and full syncs that the replica has had to their end.
    fn snapshots(&self) -> usize {
        let output = self.replica().process.output();
        (output.lines())
            .filter(|line| line.contains("all users received"))
            .filter(|line| serde_json::from_str::<Value>(line).is_ok())
            .count()
    }
}
