//! The whole way: clients, replicas of server A, server B, and a gateway that counts what it was asked for.

use std::fs;
use std::sync::Barrier;
use std::thread;

use anyhow::ensure;
use serde_json::{Value, json};
use tempfile::TempDir;
use test_support::app::{App, DEADLINE, Node, Setup, TestUser, Verdict};
use test_support::{Answer, eventually};

use super::b_gateway::Gateway;
use super::b_world::{RECEIPT_SECRET, SERVICE_TOKEN};

struct World {
    app: App,
    gateway: Gateway,
    _files: TempDir,
}

impl World {
    /// Server B with the gateway as its provider, and replicas that know where server B is.
    fn start(replicas: usize) -> Self {
        let gateway = Gateway::start("first");
        let files = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| {
            let path = files.path().join(name);
            fs::write(&path, text).expect("a file");
            path.display().to_string()
        };
        let provider = json!({
            "url": gateway.url(),
            "message_id": "/data/id",
            "timeout_seconds": 20,
            "receipts": {
                "auth": {"bearer": {"file": write("receipts", RECEIPT_SECRET)}},
                "message_id": "/id",
                "status": "/status",
                "statuses": {"DELIVRD": {"status": "delivered"}},
            },
        });
        let providers = json!({
            "providers": {"first": {"http": provider}},
            "routes": [{"prefix": "", "providers": ["first"]}],
        });
        let (setup, guards) = Setup::shared();
        let setup = setup.env("SERVICE_TOKEN", SERVICE_TOKEN).env(
            "PROVIDERS_FILE",
            &write("providers.yaml", &providers.to_string()),
        );
        let mut app = App::new(setup, Some(guards));
        app.start_all_asking(replicas);
        Self {
            app,
            gateway,
            _files: files,
        }
    }

    fn user(&self, name: &str, quota: i32) -> TestUser {
        let user = self.app.create_user_with_quota(name, quota);
        self.app.everywhere(&user.key, Verdict::Accepted);
        user
    }

    /// So many sends at one moment, spread over the replicas.
    fn send_at_once(&self, user: &TestUser, count: usize, headers: &[(&str, &str)]) -> Vec<Answer> {
        let replicas = &self.app.replicas;
        let start = Barrier::new(count);
        let send = |number: usize| {
            start.wait();
            self.send(&replicas[number % replicas.len()], user, headers)
        };
        thread::scope(|scope| {
            let sends: Vec<_> = (0..count)
                .map(|number| scope.spawn(move || send(number)))
                .collect();
            let answers = sends.into_iter().map(|it| it.join().expect("no panic"));
            answers.collect()
        })
    }

    fn send(&self, replica: &Node, user: &TestUser, headers: &[(&str, &str)]) -> Answer {
        let url = format!("{}/api/v1/sms/send", replica.url);
        let mut all = vec![("api-key", user.key.as_str())];
        all.extend_from_slice(headers);
        let sms = json!({"to": "+14155550123", "body": "hi", "client_reference": "order-4711"});
        let answer = self.app.http().call_with("POST", &url, &all, Some(&sms));
        answer.expect("A answers")
    }

    /// What the first replica says of SMS.
    fn status(&self, user: &TestUser, path: &str) -> Answer {
        let url = format!("{}/api/v1/sms{path}", self.app.replicas[0].url);
        let headers = [("api-key", user.key.as_str())];
        let answer = self.app.http().call_with("GET", &url, &headers, None);
        answer.expect("A answers")
    }

    /// Waits until server B has taken in so many messages, and all rows are at their end or sent.
    fn settled(&self, messages: usize) {
        let least = f64::from(u32::try_from(messages).expect("few")) - 0.5;
        eventually(DEADLINE, "all SMS to be dispatched", || {
            let received =
                server_b(&self.app).metric(self.app.http(), "identity_sms_received_total", "");
            ensure!(received > least, "{received} received");
            let open = "SELECT count(*) FROM sms_messages WHERE status IN ('queued', 'sending')";
            let open = self.app.sql(open);
            ensure!(open == "0", "{open} open");
            Ok(())
        });
    }
}

fn server_b(app: &App) -> &Node {
    app.server_b.as_ref().expect("server B runs")
}

fn with_status(answers: &[Answer], status: u16) -> usize {
    let these = answers.iter().filter(|answer| answer.status == status);
    these.count()
}

#[test]
fn a_hundred_sends_at_once_with_one_key_over_two_replicas_are_one_dispatch() {
    let world = World::start(2);
    let user = world.user("alice", 1000);
    let answers = world.send_at_once(&user, 100, &[("idempotency-key", "order-4711")]);
    assert_eq!(with_status(&answers, 202), 100);
    world.settled(100);
    let asked = world.gateway.asked();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(
        answers[0].body["message_id"],
        asked[0].headers["idempotency-key"].as_str()
    );
    assert_eq!(world.app.sql("SELECT segments FROM sms_usage"), "1");
}

#[test]
fn of_a_thousand_sends_at_once_over_four_replicas_exactly_the_quota_is_dispatched() {
    const SENDS: usize = 1000;
    let world = World::start(4);
    let user = world.user("alice", 100);
    let answers = world.send_at_once(&user, SENDS, &[]);
    let queued = with_status(&answers, 202);
    for refused in answers.iter().filter(|answer| answer.status != 202) {
        let code = &refused.body["code"];
        assert_eq!((refused.status, code), (429, &json!("quota_exceeded")));
    }
    world.settled(queued);
    let dispatched = world.gateway.asked().len();
    println!("{queued} of {SENDS} queued, {dispatched} dispatched");
    assert_eq!(dispatched, 100);
    assert_eq!(world.gateway.tokens_sent().len(), 100);
    let ends =
        "SELECT string_agg(concat_ws(' ', status, error_code, count), ', ' ORDER BY status DESC)
                FROM (SELECT status, error_code, count(*) FROM sms_messages GROUP BY 1, 2) AS ends";
    let expected = match queued - 100 {
        0 => "sent 100".to_owned(),
        over => format!("sent 100, rejected quota_exceeded {over}"),
    };
    assert_eq!(world.app.sql(ends), expected);
    assert_eq!(world.app.sql("SELECT segments FROM sms_usage"), "100");
}

#[test]
fn an_sms_is_followed_from_its_send_to_its_delivery() {
    let world = World::start(1);
    let (user, other) = (world.user("alice", 10), world.user("bob", 10));
    let sent = world.send(&world.app.replicas[0], &user, &[]);
    assert_eq!(sent.status, 202, "{}", sent.text);
    let path = format!("/{}", sent.body["message_id"].as_str().expect("an id"));
    let until = |status: &str| {
        eventually(DEADLINE, status, || {
            let told = world.status(&user, &path);
            ensure!(told.body["status"] == status, "{}", told.text);
            Ok(())
        });
    };
    until("sent");

    let url = format!("{}/receipts/v1/first", server_b(&world.app).url);
    let bearer = format!("Bearer {RECEIPT_SECRET}");
    let receipt = json!({"id": world.gateway.asked()[0].id, "status": "DELIVRD"});
    let header = Some(("authorization", bearer.as_str()));
    let http = world.app.http();
    let taken = http.call("POST", &url, header, Some(&receipt));
    let taken = taken.expect("B answers");
    assert_eq!(taken.body["outcome"], "applied", "{}", taken.text);

    until("delivered");
    let told = world.status(&user, &path).body;
    let steps = told["history"].as_array().expect("steps").iter();
    let steps: Vec<&Value> = steps.map(|step| &step["status"]).collect();
    assert_eq!(steps, ["queued", "sending", "sent", "delivered"]);
    assert_eq!(told["client_reference"], "order-4711");
    let listed = world.status(&user, "?status=delivered").body;
    assert_eq!(listed["items"], json!([told]));
    // To others there is no such SMS.
    assert_eq!(world.status(&other, &path).status, 404);
    assert_eq!(world.status(&other, "").body["items"], json!([]));
}
