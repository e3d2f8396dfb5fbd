//! The whole product for one test: a database, a vhost, server B and replicas of server A as real processes.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use serde_json::{Value, json};

use crate::http::{Answer, Http};
use crate::servers::psql;
use crate::{
    ServiceCommand, ServiceProcess, TcpRelay, TestDatabase, TestServers, TestVhost, Writer,
    eventually,
};

/// More than any test sends, and room for those that count up.
const AMPLE_QUOTA: i32 = 1_000_000_000;

/// Generous: speed is for benchmarks.
pub const DEADLINE: Duration = Duration::from_mins(1);

/// Bearer token of server B's admin API.
pub const ADMIN_TOKEN: &str = "test-admin-token-0123456789";

/// Where an [`App`] finds its servers and how its processes are started.
#[derive(Debug, Clone)]
pub struct Setup {
    /// URL of the broker for server B.
    pub b_rabbitmq_url: String,
    /// URL of the broker for the replicas.
    pub a_rabbitmq_url: String,
    /// URL of the database for server B.
    pub b_database_url: String,
    /// URL of the database for the test itself.
    pub database_url: String,
    /// Further variables of both services.
    pub environment: Vec<(String, String)>,
}

/// See the module's documentation. Dropping it kills the processes.
#[derive(Debug)]
pub struct App {
    setup: Setup,
    http: Http,
    /// Server B while it runs.
    pub server_b: Option<Node>,
    /// The running replicas.
    pub replicas: Vec<Node>,
    /// Kept for their guards.
    _servers: Option<(TestDatabase, TestVhost)>,
    outputs: Vec<String>,
}

/// A running service.
#[derive(Debug)]
pub struct Node {
    /// The process.
    pub process: ServiceProcess,
    /// Base URL of its API.
    pub url: String,
    /// Base URL of probes, status and metrics.
    pub admin_url: String,
}

/// A user made by a test.
#[derive(Debug, Clone)]
pub struct TestUser {
    /// Primary key.
    pub id: i64,
    /// API key.
    pub key: String,
}

/// The key of the user so named that [`App::bulk_users`] made.
#[must_use]
pub fn bulk_key(username: &str) -> String {
    format!("isk_bulk_{username}")
}

/// What a replica makes of a key; see [`App::verdict`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Authenticated; refused for the body alone.
    Accepted,
    /// 401
    Unknown,
    /// 403
    Inactive,
    /// 503
    NotServing,
    /// Anything else.
    Other(u16),
}

impl Setup {
    /// A fresh database and vhost on the shared servers, with the guards that drop them.
    #[must_use]
    pub fn shared() -> (Self, (TestDatabase, TestVhost)) {
        let servers = TestServers::shared();
        let (database, vhost) = (servers.fresh_database(), servers.fresh_vhost());
        let setup = Self::on(vhost.url(), database.url());
        (setup, (database, vhost))
    }

    /// The given servers.
    #[must_use]
    pub fn on(rabbitmq_url: &str, database_url: &str) -> Self {
        let sealing_key = base64::engine::general_purpose::STANDARD.encode([7_u8; 32]);
        let defaults = [
            ("LOG_FORMAT", "json"),
            ("LOG", "info"),
            ("LISTEN", "127.0.0.1:0"),
            ("ADMIN_LISTEN", "127.0.0.1:0"),
            ("ADMIN_TOKEN", ADMIN_TOKEN),
            ("KEY_SEALING_KEY", &sealing_key),
            // Tests hammer one user.
            ("USER_REQUESTS_PER_SECOND", "0"),
        ];
        Self {
            b_rabbitmq_url: rabbitmq_url.to_owned(),
            a_rabbitmq_url: rabbitmq_url.to_owned(),
            b_database_url: database_url.to_owned(),
            database_url: database_url.to_owned(),
            environment: defaults
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec(),
        }
    }

    /// Sets a variable of both services.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A relay between the replicas and the broker.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn relay_replicas_to_broker(&mut self) -> TcpRelay {
        through_relay(&mut self.a_rabbitmq_url)
    }

    /// A relay between server B and the broker.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn relay_b_to_broker(&mut self) -> TcpRelay {
        through_relay(&mut self.b_rabbitmq_url)
    }

    /// A relay between server B and the database. The tests' own SQL goes on straight to the database.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn relay_b_to_database(&mut self) -> TcpRelay {
        through_relay(&mut self.b_database_url)
    }

    fn command(&self, binary: &str, rabbitmq_url: &str) -> ServiceCommand {
        self.environment
            .iter()
            .fold(ServiceCommand::new(binary), |command, (name, value)| {
                command.env(name, value)
            })
            .env("RABBITMQ_URL", rabbitmq_url)
    }
}

/// Starts a relay in front of the server that a URL names, and makes the URL go through it.
fn through_relay(url: &mut String) -> TcpRelay {
    let (front, rest) = url.split_once('@').expect("a URL with a user");
    let (address, path) = rest.split_once('/').expect("a URL with a path");
    let target = address.parse().expect("an address and a port");
    let relay = TcpRelay::start(target).expect("the relay starts");
    *url = format!("{front}@{}/{path}", relay.address());
    relay
}

impl App {
    /// Server B and two ready replicas on the shared servers.
    ///
    /// # Panics
    /// When something does not start.
    #[must_use]
    pub fn start() -> Self {
        let (setup, guards) = Setup::shared();
        let mut app = Self::new(setup, Some(guards));
        app.start_all(2);
        app
    }

    /// Nothing runs yet.
    #[must_use]
    pub fn new(setup: Setup, servers: Option<(TestDatabase, TestVhost)>) -> Self {
        Self {
            setup,
            http: Http::new(),
            server_b: None,
            replicas: Vec::new(),
            _servers: servers,
            outputs: Vec::new(),
        }
    }

    /// Starts B and so many replicas, and waits until all are ready.
    pub fn start_all(&mut self, replicas: usize) {
        self.start_b();
        for _ in 0..replicas {
            self.start_a();
        }
        self.wait_ready();
    }

    /// The same, with replicas that ask server B what became of SMS; needs a `SERVICE_TOKEN` in the setup.
    ///
    /// # Panics
    /// When they do not get ready.
    pub fn start_all_asking(&mut self, replicas: usize) {
        self.start_b();
        let server_b = self.server_b.as_ref().expect("it was just started");
        let variable = ("SERVER_B_URL".to_owned(), server_b.url.clone());
        self.setup.environment.push(variable);
        self.start_at_once(replicas);
        self.wait_ready();
    }

    /// Starts server B; does not wait for it to be ready.
    pub fn start_b(&mut self) {
        let command = self
            .setup
            .command("server-b", &self.setup.b_rabbitmq_url)
            .env("DATABASE_URL", &self.setup.b_database_url)
            .arg("serve");
        self.server_b = Some(Node::start(command));
    }

    /// Starts one more replica; does not wait for it to be ready.
    pub fn start_a(&mut self) {
        self.start_at_once(1);
    }

    /// Starts more replicas at one moment; does not wait for them to be ready.
    ///
    /// # Panics
    /// When one does not start.
    pub fn start_at_once(&mut self, replicas: usize) {
        let first = self.replicas.len();
        let starting: Vec<_> = (first..first + replicas)
            .map(|number| {
                let command = self
                    .setup
                    .command("server-a", &self.setup.a_rabbitmq_url)
                    .env("INSTANCE", format!("a-{number}"));
                std::thread::spawn(move || Node::start(command))
            })
            .collect();
        let started = starting
            .into_iter()
            .map(|node| node.join().expect("it starts"));
        self.replicas.extend(started);
    }

    /// Waits until every running process is ready.
    ///
    /// # Panics
    /// After [`DEADLINE`].
    pub fn wait_ready(&self) {
        for node in self.nodes() {
            eventually(DEADLINE, "a service to be ready", || node.ready(&self.http));
        }
    }

    /// Kills server B as a crash would.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill_b(&mut self) {
        let node = self.server_b.take().expect("server B runs");
        node.process.kill9().expect("server B can be killed");
        self.outputs.push(node.process.output());
    }

    /// All running processes.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.server_b.iter().chain(&self.replicas)
    }

    /// The HTTP client.
    #[must_use]
    pub fn http(&self) -> &Http {
        &self.http
    }

    /// How the processes are started.
    pub fn setup_mut(&mut self) -> &mut Setup {
        &mut self.setup
    }

    /// Everything that all processes have written, those that ended included.
    #[must_use]
    pub fn output(&self) -> String {
        let running = self.nodes().map(|node| node.process.output());
        self.outputs.iter().cloned().chain(running).collect()
    }

    /// Runs SQL by `psql`.
    ///
    /// # Panics
    /// When PostgreSQL refuses.
    #[must_use]
    pub fn sql(&self, sql: &str) -> String {
        psql(&self.setup.database_url, sql).unwrap_or_else(|error| panic!("{sql}: {error:#}"))
    }

    /// Runs SQL that PostgreSQL may refuse.
    pub fn try_sql(&self, sql: &str) -> Result<String> {
        psql(&self.setup.database_url, sql)
    }

    /// A steady load of writes; see [`Writer`].
    ///
    /// # Panics
    /// When psql does not start.
    #[must_use]
    pub fn writer(
        &self,
        per_second: u32,
        statement: impl Fn(u64) -> String + Send + 'static,
    ) -> Writer {
        self.writers(1, per_second, statement)
    }

    /// The same by so many sessions: one alone gets too small a part of two CPUs that are taken in full.
    ///
    /// # Panics
    /// When psql does not start.
    #[must_use]
    pub fn writers(
        &self,
        sessions: usize,
        per_second: u32,
        statement: impl Fn(u64) -> String + Send + 'static,
    ) -> Writer {
        let url = &self.setup.database_url;
        Writer::start(url, sessions, per_second, statement).expect("psql starts")
    }

    /// Makes users `user-1` to `user-{count}` with the keys that [`bulk_key`] gives, by one SQL statement.
    pub fn bulk_users(&self, count: u64) {
        let _ = self.sql(&format!(
            "BEGIN; SET CONSTRAINTS ALL DEFERRED;
             WITH made AS (INSERT INTO users (username, daily_quota)
                           SELECT 'user-' || n, {AMPLE_QUOTA} FROM generate_series(1, {count}) n
                           RETURNING user_id, username)
             INSERT INTO api_keys (user_id, digest, prefix)
             SELECT user_id, sha256(convert_to('isk_bulk_' || username, 'UTF8')), 'isk_bulk_' FROM made; COMMIT",
        ));
    }

    /// Waits until everything committed is published, and every replica has proven that it equals the database there.
    ///
    /// # Panics
    /// After `deadline`.
    pub fn converged(&self, deadline: Duration) {
        eventually(deadline, "an empty outbox", || {
            let rows = self.sql("SELECT count(*) FROM outbox");
            ensure!(rows == "0", "{rows} rows");
            Ok(())
        });
        let position =
            || self.sql("SELECT epoch || ' ' || sequence || ' ' || user_count FROM relay_state");
        for replica in &self.replicas {
            eventually(deadline, "a proof at the last number", || {
                let status = replica.status(&self.http);
                let proven = [
                    &status["proven_epoch"],
                    &status["proven_sequence"],
                    &status["users"],
                ]
                .map(ToString::to_string)
                .join(" ");
                ensure!(proven == position(), "{status}");
                Ok(())
            });
        }
        let users = self.sql("SELECT count(*) FROM users");
        assert!(
            position().ends_with(&format!(" {users}")),
            "{users} users, but the relay counts {}",
            position()
        );
    }

    /// Runs the command line of server B and gives what it printed, stdout and stderr, and how it ended.
    ///
    /// # Panics
    /// When it cannot be started or does not end.
    #[must_use]
    pub fn cli(&self, arguments: &[&str]) -> (bool, String) {
        let process = self.cli_started(arguments);
        let status = process.wait_exit(DEADLINE).expect("the command ends");
        (status.success(), process.output())
    }

    /// The same while it runs.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn cli_started(&self, arguments: &[&str]) -> ServiceProcess {
        let command = arguments.iter().fold(
            self.setup
                .command("server-b", &self.setup.b_rabbitmq_url)
                .env("DATABASE_URL", &self.setup.database_url),
            |command, argument| command.arg(*argument),
        );
        command.start().expect("server-b starts")
    }

    /// Calls the admin API of server B.
    pub fn admin(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
        let node = self.server_b.as_ref().context("server B runs")?;
        self.admin_call(method, &format!("{}/admin/v1{path}", node.url), body)
    }

    /// Calls a URL with the admin token.
    pub fn admin_call(&self, method: &str, url: &str, body: Option<&Value>) -> Result<Answer> {
        let bearer = format!("Bearer {ADMIN_TOKEN}");
        self.http
            .call(method, url, Some(("authorization", &bearer)), body)
    }

    /// Creates a user with a generated key, and more of a quota than any test uses.
    ///
    /// # Panics
    /// When server B refuses.
    #[must_use]
    pub fn create_user(&self, username: &str) -> TestUser {
        self.create_user_with_quota(username, AMPLE_QUOTA)
    }

    /// Creates a user with a generated key and this quota.
    ///
    /// # Panics
    /// When server B refuses.
    #[must_use]
    pub fn create_user_with_quota(&self, username: &str, daily_quota: i32) -> TestUser {
        let body = json!({"username": username, "daily_quota": daily_quota});
        let answer = self
            .admin("POST", "/users", Some(&body))
            .expect("B answers");
        assert_eq!(answer.status, 201, "{}", answer.text);
        TestUser {
            id: answer.body["user_id"].as_i64().expect("user_id"),
            key: answer.body["api_key"].as_str().expect("api_key").to_owned(),
        }
    }

    /// What a replica's cache says about a key. The body is invalid, so nothing is queued.
    #[must_use]
    pub fn verdict(&self, replica: &Node, key: &str) -> Verdict {
        match replica
            .send(&self.http, key, &json!({}))
            .map(|answer| answer.status)
        {
            Ok(422) => Verdict::Accepted,
            Ok(401) => Verdict::Unknown,
            Ok(403) => Verdict::Inactive,
            Ok(503) => Verdict::NotServing,
            Ok(other) => Verdict::Other(other),
            Err(_) => Verdict::Other(0),
        }
    }

    /// Waits until every replica says so of a key.
    ///
    /// # Panics
    /// After [`DEADLINE`].
    pub fn everywhere(&self, key: &str, verdict: Verdict) {
        for replica in &self.replicas {
            eventually(DEADLINE, &format!("{verdict:?} at {}", replica.url), || {
                let seen = self.verdict(replica, key);
                ensure!(seen == verdict, "{seen:?}");
                Ok(())
            });
        }
    }

    /// Without faults, nothing may have been lost, out of order, or different anywhere.
    ///
    /// # Panics
    /// When a counter says otherwise.
    pub fn assert_no_faults(&self) {
        for replica in &self.replicas {
            for effect in ["gap", "mismatch", "source_broken", "old_epoch", "duplicate"] {
                let label = format!("effect=\"{effect}\"");
                let count = replica.metric(&self.http, "identity_events_total", &label);
                assert!(
                    count < 0.5,
                    "{count} × {effect}:\n{}",
                    replica.process.output()
                );
            }
        }
        if let Some(b) = &self.server_b {
            let count = b.metric(&self.http, "identity_relay_republished_total", "");
            assert!(count < 0.5, "{count} events republished");
        }
    }

    /// Sends an SMS through a replica.
    pub fn send(&self, replica: &Node, key: &str) -> Result<Answer> {
        let body = json!({"to": "+14155550123", "from": "ACME", "body": "a test"});
        replica.send(&self.http, key, &body)
    }
}

impl Node {
    /// Starts a service that logs as JSON, and waits until it listens.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    pub fn start(command: ServiceCommand) -> Self {
        let process = command.start().expect("the service starts");
        let url = |server| {
            let address = process
                .wait_for_address(server, DEADLINE)
                .expect("the service listens");
            format!("http://{address}")
        };
        let (url, admin_url) = (url("public"), url("admin"));
        Self {
            process,
            url,
            admin_url,
        }
    }

    /// Whether `/readyz` says so; an error tells what it says.
    pub fn ready(&self, http: &Http) -> Result<()> {
        let answer = http.get(&format!("{}/readyz", self.admin_url))?;
        ensure!(answer.status == 200, "{}", answer.text);
        Ok(())
    }

    /// `/status`.
    ///
    /// # Panics
    /// When the process does not answer.
    #[must_use]
    pub fn status(&self, http: &Http) -> Value {
        let url = format!("{}/status", self.admin_url);
        http.get(&url).expect("the service answers").body
    }

    /// `/metrics`.
    ///
    /// # Panics
    /// When the process does not answer.
    #[must_use]
    pub fn metrics(&self, http: &Http) -> String {
        let url = format!("{}/metrics", self.admin_url);
        http.get(&url).expect("the service answers").text
    }

    /// The sum of a metric's series whose line contains `labels`.
    #[must_use]
    pub fn metric(&self, http: &Http, name: &str, labels: &str) -> f64 {
        self.metrics(http)
            .lines()
            .filter(|line| {
                line.strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with(['{', ' ']))
                    && line.contains(labels)
            })
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// `POST /api/v1/sms/send` of server A.
    pub fn send(&self, http: &Http, key: &str, body: &Value) -> Result<Answer> {
        let url = format!("{}/api/v1/sms/send", self.url);
        http.call("POST", &url, Some(("api-key", key)), Some(body))
    }
}
