//! A database, a virtual host and any number of server Bs; SMS come straight to the queue.

use std::fs;

use anyhow::ensure;
use serde_json::{Value, json};
use tempfile::TempDir;
use test_support::app::{DEADLINE, Node, Setup};
use test_support::servers::{Management, psql};
use test_support::{Answer, Http, ServiceCommand, TestDatabase, TestVhost, eventually};

use super::b_gateway::Gateway;

pub const SERVICE_TOKEN: &str = "test-service-token-0123456789";
pub const RECEIPT_SECRET: &str = "receipts-of-the-first-0123456789";
const GATEWAY_SECRET: &str = "secret-of-the-gateway-0123456789";
const QUEUE: &str = "sms_outbound_queue";

pub struct World {
    setup: Setup,
    pub http: Http,
    pub bs: Vec<Node>,
    dir: TempDir,
    guards: (TestDatabase, TestVhost),
}

impl World {
    /// Nothing runs yet.
    pub fn new() -> Self {
        let (setup, guards) = Setup::shared();
        let setup = setup.env("SERVICE_TOKEN", SERVICE_TOKEN);
        Self {
            setup,
            http: Http::new(),
            bs: Vec::new(),
            dir: tempfile::tempdir().expect("a directory"),
            guards,
        }
    }

    /// One server B, ready, and its queue there.
    pub fn start() -> Self {
        Self::new().started()
    }

    /// The same with gateways named `first`, `second` and so on, asked in this order, also after one has refused.
    pub fn with_gateways(gateways: &[&Gateway]) -> Self {
        Self::new().gateways(gateways, 2).started()
    }

    /// The same with one gateway that may take long to answer.
    pub fn with_patience(gateway: &Gateway) -> Self {
        Self::new().gateways(&[gateway], 20).started()
    }

    pub fn started(mut self) -> Self {
        self.start_b();
        self.wait_ready();
        self
    }

    pub fn gateways(self, gateways: &[&Gateway], timeout_seconds: u64) -> Self {
        let secret = self.write("secret", GATEWAY_SECRET);
        let receipts = self.write("receipts", RECEIPT_SECRET);
        let names = ["first", "second", "third"];
        let providers = names.iter().zip(gateways).map(|(name, gateway)| {
            let config = json!({"http": {
                "url": gateway.url(),
                "auth": {"bearer": {"file": secret}},
                "request": {"to": "/message/to", "from": "sender", "body": "/message/text", "constant": {"kind": "sms"}},
                "message_id": "/data/id",
                "timeout_seconds": timeout_seconds,
                "receipts": {
                    "auth": {"bearer": {"file": receipts}},
                    "message_id": "/id",
                    "status": "/status",
                    "statuses": {
                        "DELIVRD": {"status": "delivered"},
                        "UNDELIV": {"status": "undelivered", "error_code": "absent_subscriber"},
                        "ENROUTE": {"status": "ignore"},
                    },
                },
            }});
            ((*name).to_owned(), config)
        });
        let providers: serde_json::Map<String, Value> = providers.collect();
        let all: Vec<&String> = providers.keys().collect();
        let file = json!({
            "providers": providers,
            "routes": [
                {"prefix": "", "providers": all, "fall_over_when_refused": true},
                {"prefix": "+49", "providers": all.iter().rev().collect::<Vec<_>>()},
            ],
        });
        let file = self.write("providers.yaml", &file.to_string());
        self.env("PROVIDERS_FILE", &file)
    }

    /// A file below the world's directory.
    pub fn write(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        fs::write(&path, text).expect("a file");
        path.display().to_string()
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.setup = self.setup.env(name, value);
        self
    }

    /// How a server B is started.
    pub fn command(&self) -> ServiceCommand {
        let setup = &self.setup;
        let command = ServiceCommand::new("server-b").arg("serve");
        let variables = setup.environment.iter();
        variables
            .fold(command, |command, (name, value)| command.env(name, value))
            .env("RABBITMQ_URL", &setup.b_rabbitmq_url)
            .env("DATABASE_URL", &setup.b_database_url)
    }

    pub fn start_b(&mut self) {
        self.bs.push(Node::start(self.command()));
    }

    /// Kills the oldest server B, and gives what it had written.
    pub fn kill_b(&mut self) -> String {
        let node = self.bs.remove(0);
        node.process.kill9().expect("it can be killed");
        node.process.output()
    }

    pub fn wait_ready(&self) {
        for node in &self.bs {
            eventually(DEADLINE, "a server B to be ready", || {
                node.ready(&self.http)
            });
        }
        eventually(DEADLINE, "the queue", || {
            let queue = self.management().queue(self.vhost(), QUEUE)?;
            ensure!(queue.is_some(), "not declared yet");
            Ok(())
        });
    }

    pub fn management(&self) -> &Management {
        self.guards.1.management()
    }

    pub fn vhost(&self) -> &str {
        self.guards.1.name()
    }

    pub fn sql(&self, sql: &str) -> String {
        psql(&self.setup.database_url, sql).unwrap_or_else(|error| panic!("{sql}: {error:#}"))
    }

    /// Waits until a query gives this.
    pub fn until(&self, sql: &str, expected: &str) {
        eventually(DEADLINE, sql, || {
            let rows = self.sql(sql);
            ensure!(rows == expected, "{rows}, not {expected}");
            Ok(())
        });
    }

    /// A user with this quota.
    pub fn user(&self, name: &str, quota: u32) -> i64 {
        let sql = format!(
            "INSERT INTO users (username, daily_quota) VALUES ('{name}', {quota}) RETURNING user_id"
        );
        let id = self.sql(&sql);
        let id = id.lines().next().expect("an id");
        id.parse().expect("a number")
    }

    /// An SMS as server A queues it; further fields replace these.
    pub fn envelope(&self, user_id: i64, number: u64, more: &Value) -> Value {
        let mut envelope = json!({
            "user_id": user_id, "message_id": id(number), "to": "+14155550123", "from": "ACME", "body": "a test",
            "encoding": "gsm7", "segments": 1, "submitted_at": self.time("0 s"),
            "admission": {"epoch": 1, "sequence": 1, "cache_age_ms": 0},
        });
        let fields = envelope.as_object_mut().expect("an object");
        fields.extend(more.as_object().cloned().unwrap_or_default());
        envelope
    }

    pub fn publish(&self, envelope: &Value) {
        let properties = json!({"type": "sms.submitted", "message_id": envelope["message_id"]});
        let body = envelope.to_string();
        let management = self.management();
        let routed = management.publish(self.vhost(), "", QUEUE, &properties, body.as_bytes());
        assert!(routed.expect("the broker answers"), "no queue");
    }

    /// An SMS of one segment, straight to the queue.
    pub fn send(&self, user_id: i64, number: u64) {
        self.publish(&self.envelope(user_id, number, &json!({})));
    }

    /// From now, as the wire writes it.
    pub fn time(&self, interval: &str) -> String {
        self.sql(&format!(
            "SELECT to_char((now() + interval '{interval}') AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
        ))
    }

    /// The sum over all server Bs.
    pub fn metric(&self, name: &str, labels: &str) -> u64 {
        let values = self
            .bs
            .iter()
            .map(|node| node.metric(&self.http, name, labels));
        let sum = format!("{:.0}", values.sum::<f64>());
        sum.parse().expect("a count")
    }

    /// What the first server B answers to server A.
    pub fn internal(&self, path: &str) -> Answer {
        self.internal_as(SERVICE_TOKEN, path)
    }

    pub fn internal_as(&self, token: &str, path: &str) -> Answer {
        let url = format!("{}/internal/v1/users/{path}", self.bs[0].url);
        let bearer = format!("Bearer {token}");
        let header = Some(("authorization", bearer.as_str()));
        self.http
            .call("GET", &url, header, None)
            .expect("B answers")
    }

    /// A delivery receipt of a gateway.
    pub fn receipt(&self, gateway: &str, body: &Value) -> Answer {
        self.receipt_with(RECEIPT_SECRET, gateway, body)
    }

    pub fn receipt_with(&self, secret: &str, gateway: &str, body: &Value) -> Answer {
        let url = format!("{}/receipts/v1/{gateway}", self.bs[0].url);
        let bearer = format!("Bearer {secret}");
        let header = Some(("authorization", bearer.as_str()));
        self.http
            .call("POST", &url, header, Some(body))
            .expect("B answers")
    }

    /// No secret may have got into the logs.
    pub fn assert_no_secrets_logged(&self) {
        for node in &self.bs {
            let output = node.process.output();
            for secret in [
                GATEWAY_SECRET,
                RECEIPT_SECRET,
                SERVICE_TOKEN,
                "+14155550123",
            ] {
                assert!(!output.contains(secret), "{secret}");
            }
        }
    }
}

/// The id of an SMS.
pub fn id(number: u64) -> String {
    format!("01900000-0000-7000-8000-{number:012x}")
}
