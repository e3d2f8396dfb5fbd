//! A leader, a standby and two replicas under load, and what is done to the leader.

use anyhow::{Result, ensure};
use test_support::app::{App, DEADLINE, Node, Setup};
use test_support::{Hold, Link, TcpRelay, Writer, eventually};

use crate::lock::kill_holder;
use crate::stream::{Listener, Watch, assert_equal, counter};
use crate::writes_per_second;

const USERS: u64 = 5_000;
/// The relay's advisory lock.
const LOCK: u64 = 0x1de7_5711_c0de_0001;
/// The rows that were given a number and are not known to be confirmed.
pub const NUMBERED: &str = "SELECT count(*) FROM outbox WHERE sequence IS NOT NULL";

/// A server B with a relay on each of its links.
pub struct ServerB {
    pub node: Node,
    pub broker: TcpRelay,
    /// Goes down with it: what the process has not sent must not arrive after its death.
    _database: TcpRelay,
}

impl ServerB {
    fn start(app: &mut App) -> Self {
        let setup = app.setup_mut();
        setup.b_rabbitmq_url = setup.a_rabbitmq_url.clone();
        setup.b_database_url = setup.database_url.clone();
        let (broker, database) = (setup.relay_b_to_broker(), setup.relay_b_to_database());
        app.start_b();
        app.wait_ready();
        Self {
            node: app.server_b.take().expect("just started"),
            broker,
            _database: database,
        }
    }

    fn leads(&self, app: &App) -> Result<()> {
        let relay = &self.node.status(app.http())["relay"];
        ensure!(relay["leader"] == true, "{relay}");
        Ok(())
    }

    pub fn confirmed(&self, app: &App) -> u64 {
        let name = "identity_relay_events_total";
        counter(app, &self.node, name, "outcome=\"confirmed\"")
    }
}

/// A leader, a standby and two replicas under a steady load of writes.
pub struct World {
    pub leader: ServerB,
    pub standby: ServerB,
    writer: Writer,
    watch: Watch,
    listener: Listener,
    /// What servers B that are gone have written.
    outputs: String,
    database_url: String,
    pub app: App,
}

/// Changes that were numbered while the broker's link was silent.
pub struct Silence {
    pub rows: u64,
    /// The highest number.
    pub last: i64,
    /// Bytes that had gone to the broker before.
    pub sent: u64,
}

/// What is left when all is over, and every cache equals the database.
pub struct Outcome {
    numbers: usize,
    pub repeated: u64,
    pub late: u64,
    written: u64,
    refused: u64,
    asked_again: u64,
}

impl World {
    pub fn start() -> Self {
        let (setup, guards) = Setup::shared();
        let listener = Listener::on(&guards.1);
        let database_url = setup.database_url.clone();
        let mut app = App::new(setup.env("AUDIT_INTERVAL_SECONDS", "1"), Some(guards));
        let leader = ServerB::start(&mut app);
        eventually(DEADLINE, "a leader", || leader.leads(&app));
        let standby = ServerB::start(&mut app);
        app.bulk_users(USERS);
        app.start_a();
        app.start_a();
        app.wait_ready();
        app.converged(DEADLINE);
        listener.listen();
        // Each tenth write ends a user for good, in the order of their names.
        let writer = app.writer(writes_per_second(), |number| match number % 10 {
            0 => format!(
                "UPDATE users SET is_active = false WHERE username = 'user-{}'",
                (number / 10) % USERS + 1
            ),
            _ => format!(
                "UPDATE users SET daily_quota = daily_quota + 1 WHERE username = 'user-{}'",
                number * 7_919 % USERS + 1
            ),
        });
        Self {
            watch: Watch::start(&app.replicas),
            leader,
            standby,
            writer,
            listener,
            outputs: String::new(),
            database_url,
            app,
        }
    }

    /// The leader numbers a batch that its broker does not get: numbering is held up until nothing is on its way, the
    /// link falls silent, and numbering goes on.
    pub fn number_into_silence(&self) -> Silence {
        let numbering = self.hold("SELECT FROM relay_state FOR UPDATE");
        eventually(DEADLINE, "nothing to be on its way", || {
            self.app.sql(NUMBERED) == "0"
        });
        self.leader.broker.set_link(Link::Silent);
        assert_eq!(self.app.sql(NUMBERED), "0");
        let sent = self.leader.broker.bytes_to_server();
        drop(numbering);
        let (rows, last) = eventually(DEADLINE, "a batch to be numbered", || {
            let sql = "SELECT count(*), max(sequence) FROM outbox WHERE sequence IS NOT NULL";
            let row = self.app.sql(sql);
            let (rows, last) = row.split_once('|')?;
            Some((rows.parse().ok()?, last.parse().ok()?))
        });
        Silence { rows, last, sent }
    }

    /// Kills the leader if it lives; the standby takes over and publishes again what was left over, and another standby
    /// is started.
    pub fn replace_leader(&mut self, left_over: u64) {
        self.leader.node.process.kill9().expect("B can be killed");
        self.outputs += &self.leader.node.process.output();
        eventually(DEADLINE, "the standby to lead", || {
            self.standby.leads(&self.app)
        });
        eventually(DEADLINE, "what was left over to be published", || {
            let name = "identity_relay_republished_total";
            let republished = counter(&self.app, &self.standby.node, name, "");
            ensure!(republished >= left_over, "{republished} of {left_over}");
            Ok(())
        });
        let next = ServerB::start(&mut self.app);
        self.leader = std::mem::replace(&mut self.standby, next);
    }

    /// Locks rows until it is dropped.
    pub fn hold(&self, select: &str) -> Hold {
        Hold::new(&self.database_url, select)
    }

    /// PostgreSQL ends the session that holds the leader's lock; the process does not know yet. Gives its term.
    pub fn kill_lock_connection(&self) -> i64 {
        let term = self.app.sql("SELECT term FROM relay_state");
        kill_holder(&self.app, LOCK);
        term.parse().expect("a number")
    }

    /// Waits until another term has begun and the leader of this one has noticed. If the standby leads, they change
    /// places; gives why the old leader resigned, if it has not been elected once more.
    pub fn old_leader_resigns(&mut self, term: i64) -> Option<String> {
        let error = eventually(DEADLINE, "the old leader to resign", || {
            let old = &self.leader.node.status(self.app.http())["relay"];
            if self.standby.leads(&self.app).is_ok() {
                ensure!(old["leader"] == false, "{old}");
                return Ok(Some(old["last_error"].to_string()));
            }
            let elected_again = old["leader"] == true && old["term"].as_i64() > Some(term);
            ensure!(elected_again, "no standby leads, and not {old}");
            Ok(None)
        });
        if error.is_some() {
            std::mem::swap(&mut self.leader, &mut self.standby);
        }
        error
    }

    /// Ends the load. Every cache equals the database, no version went back, and no replica saw a hole.
    pub fn judge(self) -> Outcome {
        let written = self.writer.stop();
        assert_equal(&self.app, DEADLINE);
        let (refused, asked_again) = self.watch.stop();
        let heard = self.listener.heard();
        for replica in &self.app.replicas {
            for effect in ["gap", "mismatch", "old_epoch"] {
                let label = format!("effect=\"{effect}\"");
                let seen = counter(&self.app, replica, "identity_events_total", &label);
                assert_eq!(seen, 0, "{effect}:\n{}", replica.process.output());
            }
        }
        let running = [&self.leader, &self.standby].map(|b| b.node.process.output());
        let drift = "behind the triggers";
        assert!(!(self.outputs + &running.concat()).contains(drift));
        Outcome {
            numbers: heard.numbers(),
            repeated: heard.repeated as u64,
            late: heard.late as u64,
            written,
            refused,
            asked_again,
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} writes in {} numbers without a hole, {} repeated ({} late); {} users refused on both replicas and none \
             of them let in again in {} tries; both caches equal",
            self.written, self.numbers, self.repeated, self.late, self.refused, self.asked_again
        )
    }
}
