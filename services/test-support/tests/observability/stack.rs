//! One server B, two replicas of server A and user-service, watched by a Prometheus.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use test_support::app::{App, DEADLINE, Node, Setup, TestUser, Verdict};
use test_support::children::Signal;
use test_support::servers::{Management, Prometheus, PrometheusOptions, Target};
use test_support::{Hold, Http, ServiceCommand, TestDatabase, TestServers, eventually};

use crate::kube_state::KubeState;

const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
const POISON: &[u8] = b"{";
/// More than the rules let pass.
const LATE: u32 = 20;
/// Numbers that begin so go to a provider at which nobody listens; all others to the log.
const GONE: &str = "+4930";
/// The fewest that a pool may have.
const CONNECTIONS: usize = 4;

pub struct Stack {
    pub app: App,
    pub user_service: Node,
    pub prometheus: Prometheus,
    kube_state: KubeState,
    user: TestUser,
    management: Management,
    vhost: String,
    database_url: String,
    rounds: u64,
    user_service_database: TestDatabase,
    _dir: tempfile::TempDir,
}

impl Stack {
    /// Waits until all are ready and Prometheus has scraped them.
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (setup, guards) = Setup::shared();
        let (management, vhost) = (guards.1.management().clone(), guards.1.name().to_owned());
        let rabbitmq_url = guards.1.url().to_owned();
        let database_url = setup.database_url.clone();
        // Nobody listens there: spans are made, and their export fails.
        let setup = setup
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
            .env("AUDIT_INTERVAL_SECONDS", "2")
            .env("FAIL_CLOSED_AFTER_SECONDS", "5")
            .env("PROVIDERS_FILE", &providers_file(dir.path()));
        let mut app = App::new(setup, Some(guards));
        app.start_all(2);
        let database = TestServers::shared().fresh_database();
        let user_service = user_service(&rabbitmq_url, database.url());
        eventually(DEADLINE, "user-service to be ready", || {
            user_service.ready(app.http())
        });
        let user = app.create_user("alice");
        app.everywhere(&user.key, Verdict::Accepted);

        let kube_state = KubeState::start().expect("a port");
        let prometheus = watch(dir.path(), &app, &user_service, &kube_state);
        eventually(DEADLINE, "all five to be scraped", || {
            let up = prometheus.query("sum(up)")?;
            anyhow::ensure!(up[0]["value"][1] == "5", "{up}");
            Ok(())
        });
        Self {
            app,
            user_service,
            prometheus,
            kube_state,
            user,
            management,
            vhost,
            database_url,
            rounds: 0,
            user_service_database: database,
            _dir: dir,
        }
    }

    /// A bit of everything that clients and operators do, good and bad.
    pub fn load(&mut self) {
        self.rounds += 1;
        for replica in &self.app.replicas {
            let answer = self.app.send(replica, &self.user.key).expect("A answers");
            assert_eq!(answer.status, 202, "{}", answer.text);
            assert_eq!(self.app.verdict(replica, "isk_wrong"), Verdict::Unknown);
        }
        let other = format!("bob-{}", self.rounds);
        let _ = self.app.create_user(&other);
        // A revocation.
        let _ = self.app.sql(&format!(
            "UPDATE users SET is_active = false WHERE username = '{other}'"
        ));
        self.user_created(self.rounds, &other);
        self.stray_receipt();
    }

    /// Of a provider that server B does not have: counted, too.
    fn stray_receipt(&self) {
        let b = self.app.server_b.as_ref().expect("server B runs");
        let url = format!("{}/receipts/v1/nobody", b.url);
        let receipt = json!({"id": "1", "status": "DELIVRD"});
        let answer = (self.app.http())
            .call("POST", &url, None, Some(&receipt))
            .expect("B answers");
        assert_eq!(answer.status, 404, "{}", answer.text);
    }

    /// A full sync, to its end.
    pub fn full_sync(&self) {
        let (good, output) = self.app.cli(&["full-sync"]);
        assert!(good, "{output}");
    }

    /// Messages that nobody can take, on each queue.
    pub fn poison(&self) {
        let publish = |exchange: &str, key: &str, event: &str| {
            let properties = json!({"type": event});
            self.management
                .publish(&self.vhost, exchange, key, &properties, POISON)
                .expect("the broker takes it");
        };
        publish("config_events_exchange", "", "user.updated");
        publish("", "sms_outbound_queue", "sms.submitted");
        publish("auth_events_exchange", "user.created", "");
    }

    /// A change behind the triggers.
    pub fn drift(&self) {
        let _ = self.app.sql(
            "BEGIN;
             ALTER TABLE users DISABLE TRIGGER USER;
             UPDATE users SET daily_quota = daily_quota + 1 WHERE username = 'alice';
             DO $$ DECLARE one record; BEGIN
                 FOR one IN SELECT tgname FROM pg_trigger WHERE NOT tgisinternal AND tgrelid = 'users'::regclass
                 LOOP EXECUTE format('ALTER TABLE users ENABLE ALWAYS TRIGGER %I', one.tgname); END LOOP;
             END $$;
             COMMIT",
        );
    }

    /// Changes that one replica applies more than a second after their commit.
    pub fn late_changes(&self) {
        let replica = &self.app.replicas[1].process;
        replica.signal(Signal::STOP).expect("a signal can be sent");
        for number in 0..LATE {
            let _ = self.app.create_user(&format!("late-{number}"));
        }
        let committed = Instant::now();
        eventually(DEADLINE, "a second to pass", || {
            committed.elapsed() > Duration::from_millis(1_200)
        });
        replica.signal(Signal::CONT).expect("a signal can be sent");
    }

    /// SMS that their provider does not take.
    pub fn fail_provider(&self) {
        let sms = json!({"to": format!("{GONE}1234567"), "body": "a test"});
        for replica in &self.app.replicas {
            let answer = replica.send(self.app.http(), &self.user.key, &sms);
            let answer = answer.expect("A answers");
            assert_eq!(answer.status, 202, "{}", answer.text);
        }
    }

    /// Server B cannot read what its replicas reported until the result is dropped.
    pub fn hold_reports(&self) -> Hold {
        let table = "LOCK TABLE replicas IN ACCESS EXCLUSIVE MODE";
        Hold::new(&self.database_url, table)
    }

    /// Server B stores no SMS until the result is dropped.
    pub fn hold_stored_sms(&self) -> Hold {
        let table = "LOCK TABLE sms_messages IN SHARE MODE";
        Hold::new(&self.database_url, table)
    }

    /// Looks of server B that have failed; this one may be the next.
    pub fn unmeasured(&self) -> f64 {
        let b = self.app.server_b.as_ref().expect("server B runs");
        let of = "of=\"replicas\"";
        b.metric(self.app.http(), "identity_measurements_failed_total", of)
    }

    /// The resync Job has failed.
    pub fn fail_resync(&self) {
        self.kube_state.fail();
    }

    /// Audits fail, and with them full syncs, until the result is run as SQL; so does each change of a user.
    pub fn break_audits(&self) -> String {
        let definition = self
            .app
            .sql("SELECT pg_get_functiondef('wire_keys_of'::regproc)");
        let _ = self.app.sql(
            "CREATE OR REPLACE FUNCTION wire_keys_of(id bigint) RETURNS jsonb LANGUAGE plpgsql
             AS $$ BEGIN RAISE EXCEPTION 'broken by a test'; END $$",
        );
        let (good, output) = self.app.cli(&["full-sync"]);
        assert!(!good, "{output}");
        definition
    }

    /// Nobody else comes to the table of user-service until the result is dropped; an event waits for it, and as many
    /// requests as there are connections.
    pub fn hold_references(&mut self) -> Hold {
        let table = "LOCK TABLE auth_user_references IN ACCESS EXCLUSIVE MODE";
        let held = Hold::new(self.user_service_database.url(), table);
        self.rounds += 1;
        self.user_created(self.rounds, "held");
        let url = format!("{}/api/v1/auth-user-references", self.user_service.url);
        for _ in 0..CONNECTIONS {
            let url = url.clone();
            thread::spawn(move || Http::new().get(&url).map(drop));
        }
        held
    }

    /// Server B does nothing until [`Self::wake_b`], and loses no connection but by its silence.
    pub fn freeze_b(&self) {
        self.signal_b(Signal::STOP);
    }

    pub fn wake_b(&self) {
        self.signal_b(Signal::CONT);
    }

    /// With server B frozen: an SMS that was submitted long ago, and that nobody can claim until the result is dropped.
    pub fn hold_an_sms(&self) -> Hold {
        let id = self.app.sql(
            "UPDATE sms_messages SET status = 'queued', submitted_at = now() - interval '11 minutes', next_attempt_at = now()
             WHERE message_id = (SELECT message_id FROM sms_messages LIMIT 1) RETURNING message_id",
        );
        let row = format!("SELECT FROM sms_messages WHERE message_id = '{id}' FOR UPDATE");
        Hold::new(&self.database_url, &row)
    }

    fn signal_b(&self, signal: Signal) {
        let b = self.app.server_b.as_ref().expect("server B runs");
        b.process.signal(signal).expect("a signal can be sent");
    }

    /// Takes the virtual host away, with all connections; changes are made all the same.
    pub fn lose_broker(&self) {
        let lost = self.management.delete_vhost(&self.vhost);
        lost.expect("the broker does so");
        let _ = self.app.create_user("unpublished");
    }

    /// Sends that may be refused.
    pub fn try_load(&self, sends: usize) {
        for replica in self.app.replicas.iter().cycle().take(sends) {
            let answer = self.app.send(replica, &self.user.key).expect("A answers");
            assert!([202, 503].contains(&answer.status), "{}", answer.text);
        }
    }

    /// The text of `/metrics` of all that is scraped.
    pub fn metrics(&self) -> String {
        let nodes = self.app.nodes().chain([&self.user_service]);
        let ours = nodes.map(|node| node.metrics(self.app.http()));
        ours.chain([self.kube_state.metrics()]).collect()
    }

    fn user_created(&self, id: u64, username: &str) {
        let event = json!({
            "event_type": "UserCreated", "user_id": id, "username": username,
            "email": "bob@example.com", "timestamp": 1_234_567_890.123
        });
        let routed = self.management.publish(
            &self.vhost,
            "auth_events_exchange",
            "user.created",
            &json!({}),
            event.to_string().as_bytes(),
        );
        assert!(routed.expect("the broker takes it"), "not routed");
    }
}

fn providers_file(dir: &Path) -> String {
    let providers = json!({
        "providers": {"log": "log", "gone": {"http": {"url": "http://127.0.0.1:9/"}}},
        "routes": [
            {"prefix": "", "providers": ["log"]},
            {"prefix": GONE, "providers": ["gone"]},
        ],
    });
    let path = dir.join("providers.yaml");
    fs::write(&path, providers.to_string()).expect("a file");
    path.display().to_string()
}

fn user_service(rabbitmq_url: &str, database_url: &str) -> Node {
    Node::start(
        ServiceCommand::new("user-service")
            .arg("serve")
            .env("LOG_FORMAT", "json")
            .env("LISTEN", "127.0.0.1:0")
            .env("ADMIN_LISTEN", "127.0.0.1:0")
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
            .env("RABBITMQ_URL", rabbitmq_url)
            .env("DATABASE_URL", database_url)
            .env("DATABASE_MAX_CONNECTIONS", CONNECTIONS.to_string()),
    )
}

fn watch(dir: &Path, app: &App, user_service: &Node, kube_state: &KubeState) -> Prometheus {
    let target = |job: &str, pod: String, node: &Node| Target {
        job: job.to_owned(),
        pod,
        admin_url: node.admin_url.clone(),
    };
    let b = app.server_b.as_ref().expect("server B runs");
    let mut targets = vec![
        target("server-b", "b".to_owned(), b),
        target("user-service", "users".to_owned(), user_service),
        Target {
            job: "kube-state-metrics".to_owned(),
            pod: "kube-state-metrics".to_owned(),
            admin_url: kube_state.url.clone(),
        },
    ];
    for (number, replica) in app.replicas.iter().enumerate() {
        targets.push(target("server-a", format!("a-{number}"), replica));
    }
    let options = PrometheusOptions {
        interval_seconds: 1,
        rules: Path::new(REPOSITORY).join("observability/rules"),
        targets,
    };
    Prometheus::start(dir, &options).expect("Prometheus starts")
}
