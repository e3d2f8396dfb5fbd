//! What every benchmark needs: how long to run, where the servers are, and worlds with users.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use test_support::app::{App, Node, Setup};
use test_support::servers::psql;
use test_support::{ServiceCommand, TestDatabase, TestServers, TestVhost, try_eventually};

use crate::users;

/// Rounds if nothing else was asked for.
const ROUNDS: usize = 5;
/// For what reads or sends all users.
pub const LONG: Duration = Duration::from_mins(10);

/// See the module's documentation.
pub struct Bench {
    rounds: usize,
    /// Small counts, for a check that it works.
    pub short: bool,
    /// Profile of the measured binaries.
    pub profile: String,
    /// Where results go.
    pub out: PathBuf,
    runtime: tokio::runtime::Runtime,
    /// Databases by the number of their users; a benchmark leaves as many as it found.
    databases: Mutex<HashMap<u64, Arc<TestDatabase>>>,
}

/// Server B on a database with users, and a virtual host of its own. Replicas are started by who needs them.
pub struct World {
    /// The processes.
    pub app: App,
    /// The broker's URL.
    pub rabbitmq_url: String,
    /// The database's URL.
    pub database_url: String,
    /// Users in the database.
    pub users: u64,
    _guards: (Arc<TestDatabase>, TestVhost),
}

impl Bench {
    /// `rounds` only if they were asked for.
    pub fn new(rounds: Option<usize>, short: bool, profile: &str, out: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .context("starting the runtime")?;
        Ok(Self {
            rounds: rounds.unwrap_or(if short { 1 } else { ROUNDS }),
            short,
            profile: profile.to_owned(),
            out: out.to_owned(),
            runtime,
            databases: Mutex::default(),
        })
    }

    /// The rounds, told on stderr as they begin.
    pub fn rounds(&self) -> impl Iterator<Item = usize> + use<> {
        let rounds = self.rounds;
        let began = Instant::now();
        (1..=rounds).inspect(move |round| {
            let seconds = began.elapsed().as_secs();
            eprintln!("  round {round} of {rounds}, after {seconds} s");
        })
    }

    /// How many rounds there are.
    pub fn round_count(&self) -> usize {
        self.rounds
    }

    /// A count for a full run, or a short one.
    pub fn pick<T>(&self, full: T, short: T) -> T {
        if self.short { short } else { full }
    }

    /// How long one variant runs in one round.
    pub fn run_for(&self, full_seconds: u64) -> Duration {
        self.pick(
            Duration::from_secs(full_seconds),
            Duration::from_millis(700),
        )
    }

    /// Runs what is async.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Server B, ready, on a database with so many users.
    pub fn world(&self, users: u64) -> Result<World> {
        Ok(world_on(self.database(users)?, users))
    }

    fn database(&self, users: u64) -> Result<Arc<TestDatabase>> {
        if let Some(database) = self.kept_databases().get(&users) {
            return Ok(Arc::clone(database));
        }
        eprintln!("  filling a database with {users} users");
        let database = Arc::new(TestServers::shared().fresh_database());
        users::fill(database.url(), users)?;
        let kept = Arc::clone(&database);
        self.kept_databases().insert(users, kept);
        Ok(database)
    }

    fn kept_databases(&self) -> MutexGuard<'_, HashMap<u64, Arc<TestDatabase>>> {
        self.databases
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The same as [`Bench::world`] on a database of its own, which the benchmark may leave as it likes.
pub fn own_world(users: u64) -> Result<World> {
    let database = TestServers::shared().fresh_database();
    users::fill(database.url(), users)?;
    Ok(world_on(Arc::new(database), users))
}

fn world_on(database: Arc<TestDatabase>, users: u64) -> World {
    let vhost = TestServers::shared().fresh_vhost();
    let mut app = App::new(Setup::on(vhost.url(), database.url()), None);
    app.start_all(0);
    World {
        app,
        rabbitmq_url: vhost.url().to_owned(),
        database_url: database.url().to_owned(),
        users,
        _guards: (database, vhost),
    }
}

impl World {
    /// Starts a replica and waits until it is ready, however many users there are; gives its number.
    pub fn start_replica(&mut self) -> Result<usize> {
        self.app.start_a();
        let number = self.app.replicas.len() - 1;
        self.wait_ready(number)?;
        Ok(number)
    }

    /// Waits until a replica is ready.
    pub fn wait_ready(&self, number: usize) -> Result<()> {
        try_eventually(LONG, "a replica to be ready", || {
            self.app.replicas[number].ready(self.app.http())
        })
    }

    /// Runs SQL.
    pub fn sql(&self, sql: &str) -> Result<String> {
        psql(&self.database_url, sql)
    }

    /// A counter of server B.
    pub fn b_metric(&self, name: &str, labels: &str) -> Result<f64> {
        let node = self.app.server_b.as_ref().context("server B runs")?;
        Ok(node.metric(self.app.http(), name, labels))
    }

    /// The process id of server B.
    pub fn b_id(&self) -> Result<u32> {
        let node = self.app.server_b.as_ref().context("server B runs")?;
        Ok(node.process.id())
    }

    /// Waits until everything committed is published.
    pub fn wait_relayed(&self) -> Result<()> {
        try_eventually(LONG, "an empty outbox", || {
            anyhow::Ok(self.sql("SELECT NOT EXISTS (SELECT FROM outbox)")? == "t")
                .and_then(|empty| empty.then_some(()).context("rows are left"))
        })
    }
}

/// Server A without authentication, which only this crate's build makes.
pub fn start_without_authentication(rabbitmq_url: &str) -> Node {
    let command = ServiceCommand::new("no_auth")
        .env("LOG_FORMAT", "json")
        .env("LOG", "info")
        .env("LISTEN", "127.0.0.1:0")
        .env("ADMIN_LISTEN", "127.0.0.1:0")
        .env("INSTANCE", "no-auth")
        .env("RABBITMQ_URL", rabbitmq_url);
    Node::start(command)
}
