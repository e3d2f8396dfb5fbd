//! The database is restored to an older base backup while the replicas run ahead of it.

use std::time::{Duration, Instant};

use tempfile::TempDir;
use test_support::app::{App, DEADLINE, Setup, TestUser, Verdict, bulk_key};
use test_support::servers::{Postgres, PostgresOptions};
use test_support::{TestServers, TestVhost, Writer, eventually};

use crate::stream::assert_equal;
use crate::{count, writes_per_second};

const REPLICAS: usize = 3;
/// Changes that are there before a server B is; one batch of the relay.
const GIVEN_AT_ONCE: i64 = 400;

#[test]
fn a_database_restored_to_an_older_base_backup_begins_an_epoch_to_which_every_replica_converges() {
    let _alone = crate::alone();
    let mut world = World::start(count(100_000, 10_000));
    // The backup is taken while users change; what comes after it will be lost.
    let writer = world.load();
    eventually(DEADLINE, "the load to be on", || writer.written() > 100);
    world.back_up();
    let at_backup = writer.written();
    eventually(DEADLINE, "more writes than a second's", || {
        writer.written() > at_backup + 3 * u64::from(writes_per_second())
    });
    let _ = writer.stop();
    world.lose();

    // Server B lives through it, and users change again at once.
    world.restore();
    let restored = Instant::now();
    let writer = world.load();
    let reached = world.converge(restored);
    let written = writer.stop();
    world.judge();
    println!(
        "8 restore: base backup of {} users under load, {} numbers older than the replicas: a new epoch, {REPLICAS} \
         replicas show the restored state after {:.1} s under {written} writes, all equal at the end",
        world.users,
        world.ahead - world.at_backup,
        reached.as_secs_f64()
    );
}

#[test]
fn a_restored_database_that_numbers_past_its_replicas_at_once_begins_an_epoch_all_the_same() {
    let _alone = crate::alone();
    let mut world = World::start(count(100_000, 10_000));
    world.back_up();
    world.lose();
    let lost = world.ahead - world.at_backup;
    assert!(lost < GIVEN_AT_ONCE, "{lost} numbers are lost");

    // More changes than were lost are there before a server B is.
    world.app.kill_b();
    world.restore();
    let _ = world.app.sql(&format!(
        "UPDATE users SET daily_quota = 7 WHERE username IN (SELECT 'user-' || generate_series(1, {GIVEN_AT_ONCE}))"
    ));
    let restored = Instant::now();
    world.app.start_b();
    let reached = world.converge(restored);
    world.judge();
    println!(
        "8 restore: {lost} numbers lost and {GIVEN_AT_ONCE} given at once: a new epoch, {REPLICAS} replicas show the restored state \
         after {:.1} s, all equal at the end",
        reached.as_secs_f64()
    );
}

/// Server B and replicas on a PostgreSQL of their own.
struct World {
    users: u64,
    app: App,
    postgres: Postgres,
    /// Created before the backup, and ended after it.
    old: TestUser,
    /// Created after the backup.
    new: Option<TestUser>,
    /// The last number given before the backup was complete.
    at_backup: i64,
    /// The last number given before the loss.
    ahead: i64,
    _vhost: TestVhost,
    _dir: TempDir,
}

impl World {
    fn start(users: u64) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let postgres = Postgres::start(dir.path(), &PostgresOptions::for_tests()).expect("starts");
        postgres
            .ensure_database("identity")
            .expect("a database can be made");
        let vhost = TestServers::shared().fresh_vhost();
        let setup = Setup::on(vhost.url(), &postgres.url("identity"));
        let mut app = App::new(setup.env("AUDIT_INTERVAL_SECONDS", "1"), None);
        app.start_all(REPLICAS);
        app.bulk_users(users);
        app.converged(DEADLINE);
        let old = app.create_user("old");
        app.everywhere(&old.key, Verdict::Accepted);
        Self {
            users,
            app,
            postgres,
            old,
            new: None,
            at_backup: 0,
            ahead: 0,
            _vhost: vhost,
            _dir: dir,
        }
    }

    fn load(&self) -> Writer {
        let users = self.users;
        self.app.writer(writes_per_second(), move |number| {
            format!(
                "UPDATE users SET daily_quota = daily_quota + 1 WHERE username = 'user-{}'",
                number * 7_919 % (users - 2) + 3
            )
        })
    }

    fn sequence(&self) -> i64 {
        let sequence = self.app.sql("SELECT sequence FROM relay_state");
        sequence.parse().expect("a number")
    }

    fn back_up(&mut self) {
        self.postgres.base_backup().expect("a base backup");
        self.at_backup = self.sequence();
    }

    /// Changes that every replica gets to know, and that the backup has not.
    fn lose(&mut self) {
        let new = self.app.create_user("new");
        let _ = self.app.sql(
            "UPDATE users SET is_active = false WHERE username = 'old';
             DELETE FROM users WHERE username IN ('user-1', 'user-2')",
        );
        self.app.converged(DEADLINE);
        self.app.everywhere(&new.key, Verdict::Accepted);
        self.app.everywhere(&self.old.key, Verdict::Inactive);
        self.new = Some(new);
        self.ahead = self.sequence();
        assert_eq!(self.app.sql("SELECT epoch FROM relay_state"), "1");
        assert!(self.ahead > self.at_backup);
    }

    fn restore(&mut self) {
        self.postgres.kill9().expect("PostgreSQL can be killed");
        self.postgres.restore().expect("the backup can be restored");
        let lost = self
            .app
            .sql("SELECT count(*) FROM users WHERE username = 'new'");
        assert_eq!(lost, "0");
    }

    /// Waits until every replica shows the restored state; how long after `restored` that was.
    fn converge(&self, restored: Instant) -> Duration {
        let new = self.new.as_ref().expect("lost");
        self.app.everywhere(&new.key, Verdict::Unknown);
        self.app.everywhere(&self.old.key, Verdict::Accepted);
        self.app.everywhere(&bulk_key("user-1"), Verdict::Accepted);
        restored.elapsed()
    }

    fn judge(&self) {
        assert_equal(&self.app, DEADLINE);
        for replica in &self.app.replicas {
            let status = replica.status(self.app.http());
            let epoch = status["proven_epoch"].as_i64();
            assert!(epoch.is_some_and(|epoch| epoch > 1), "{status}");
        }
        let third = self.app.create_user("third");
        self.app.everywhere(&third.key, Verdict::Accepted);
    }
}
