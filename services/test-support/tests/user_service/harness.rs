//! Replicas of user-service with a database and a vhost.

use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};
use test_support::app::{DEADLINE, Node};
use test_support::servers::psql;
use test_support::{
    Answer, Http, ServiceCommand, TestDatabase, TestServers, TestVhost, eventually,
};

pub const QUEUE: &str = "user_service.user_created";
pub const DEAD: &str = "user_service.user_created.dead";
/// For what takes long on a machine that others use too.
pub const LONG: Duration = Duration::from_mins(5);

/// Dropping it kills the processes.
pub struct UserService {
    pub rabbitmq_url: String,
    pub database_url: String,
    pub replicas: Vec<Node>,
    pub http: Http,
}

impl UserService {
    /// Nothing runs yet.
    pub fn on(rabbitmq_url: &str, database_url: &str) -> Self {
        Self {
            rabbitmq_url: rabbitmq_url.to_owned(),
            database_url: database_url.to_owned(),
            replicas: Vec::new(),
            http: Http::new(),
        }
    }

    /// Nothing runs yet, on the shared servers; with the guards that drop database and vhost.
    pub fn shared() -> (Self, TestDatabase, TestVhost) {
        let servers = TestServers::shared();
        let (database, vhost) = (servers.fresh_database(), servers.fresh_vhost());
        (Self::on(vhost.url(), database.url()), database, vhost)
    }

    /// Starts so many replicas and waits until they are ready.
    pub fn start(&mut self, replicas: usize) {
        for _ in 0..replicas {
            let command = self
                .command("serve")
                .env("LOG_FORMAT", "json")
                .env("LISTEN", "127.0.0.1:0")
                .env("ADMIN_LISTEN", "127.0.0.1:0");
            self.replicas.push(Node::start(command));
        }
        for node in &self.replicas {
            eventually(DEADLINE, "a replica to be ready", || node.ready(&self.http));
        }
    }

    /// Asks all replicas to end; each must do so in order.
    pub fn stop(&mut self) {
        for node in &self.replicas {
            node.process.terminate().expect("a signal can be sent");
        }
        for node in self.replicas.drain(..) {
            let status = node.process.wait_exit(DEADLINE).expect("it ends");
            assert!(
                status.success(),
                "{status}\n{}",
                node.process.last_lines(20)
            );
        }
    }

    /// Publishes events as the auth-service does.
    pub fn auth_events(&self, arguments: &[&str]) {
        let mut told = self.cli("auth-events", arguments);
        // The broker's fault, while it makes many quorum queues at once; nothing is published before the queue is there.
        if told.1.contains("cluster_not_formed") {
            told = self.cli("auth-events", arguments);
        }
        assert!(told.0, "{}", told.1);
    }

    /// Runs a command and gives whether it succeeded, and what it printed.
    pub fn cli(&self, command: &str, arguments: &[&str]) -> (bool, String) {
        let command = arguments
            .iter()
            .fold(self.command(command), |command, argument| {
                command.arg(*argument)
            });
        let process = command.start().expect("user-service starts");
        let status = process.wait_exit(LONG).expect("the command ends");
        (status.success(), process.output())
    }

    pub fn command(&self, command: &str) -> ServiceCommand {
        ServiceCommand::new("user-service")
            .arg(command)
            .env("RABBITMQ_URL", &self.rabbitmq_url)
            .env("DATABASE_URL", &self.database_url)
    }

    pub fn sql(&self, sql: &str) -> anyhow::Result<String> {
        psql(&self.database_url, sql)
    }

    /// Rows of `auth_user_references`.
    pub fn stored(&self) -> anyhow::Result<u64> {
        Ok(self
            .sql("SELECT count(*) FROM auth_user_references")?
            .parse()?)
    }

    /// Waits until there are exactly so many rows.
    pub fn wait_stored(&self, deadline: Duration, expected: u64) {
        eventually(deadline, "the references to be stored", || {
            let stored = self.stored()?;
            ensure!(stored == expected, "{stored} of {expected}");
            Ok(())
        });
    }

    /// The sum of a counter over the running replicas.
    pub fn metric(&self, name: &str) -> f64 {
        let name = format!("user_service_{name}_total");
        let of = |node: &Node| node.metric(&self.http, &name, "");
        self.replicas.iter().map(of).sum()
    }

    /// Asks the first replica.
    pub fn get(&self, path: &str) -> Answer {
        let url = format!("{}{path}", self.replicas[0].url);
        self.http.get(&url).expect("user-service answers")
    }
}

/// Publishes a body as the auth-service does.
pub fn publish(vhost: &TestVhost, body: &Value) {
    let routed = vhost.management().publish(
        vhost.name(),
        "auth_events_exchange",
        "user.created",
        &json!({}),
        body.to_string().as_bytes(),
    );
    assert!(routed.expect("the broker takes it"), "not routed");
}

/// What is in a queue; nobody may be consuming it. Takes the messages out.
pub fn drain(vhost: &TestVhost, queue: &str) -> Vec<Value> {
    let messages = vhost.management().get_messages(vhost.name(), queue, 10);
    messages.expect("the broker answers")
}

/// A body with this id, name and address.
pub fn event(user_id: i64, email: &str) -> Value {
    json!({
        "event_type": "UserCreated", "user_id": user_id, "username": "johndoe",
        "email": email, "timestamp": 1_234_567_890.123
    })
}
