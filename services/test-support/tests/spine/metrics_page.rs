//! `observability/METRICS.md` lists what the processes expose, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::ensure;
use serde_json::json;
use test_support::app::{App, DEADLINE, Node, Setup, Verdict};
use test_support::{Http, ServiceCommand, TestServers, eventually};

const PAGE: &str = "../../observability/METRICS.md";
const SERVICES: [&str; 3] = ["server-a", "server-b", "user-service"];
/// What the column `appears` may say; of the last no process of this test has anything.
const FROM_THE_START: &str = "from the start";
const FIRST: &str = "with the first";
const WITH_AN_ENDPOINT: &str = "with an OTLP endpoint";

/// A row of the page.
#[derive(Debug)]
struct Listed {
    kind: String,
    /// Of each label its values, or none where they are not bounded by a list.
    labels: BTreeMap<String, BTreeSet<String>>,
    services: BTreeSet<String>,
    appears: String,
}

/// A metric of a process.
#[derive(Debug)]
struct Exposed {
    kind: String,
    labels: BTreeMap<String, BTreeSet<String>>,
}

#[test]
fn the_page_lists_every_metric_that_the_services_expose_and_no_other() {
    let page = read_page();
    let (setup, guards) = Setup::shared();
    let vhost = (guards.1.management().clone(), guards.1.name().to_owned());
    let database = TestServers::shared().fresh_database();
    let rabbitmq_url = guards.1.url().to_owned();
    let mut app = App::new(setup, Some(guards));
    app.start_all(1);
    let users = start_user_service(&rabbitmq_url, database.url());
    eventually(DEADLINE, "user-service to be ready", || {
        users.ready(app.http())
    });
    let b = app.server_b.as_ref().expect("server B runs");
    let nodes = [&app.replicas[0], b, &users];

    // Before anything happens: what is to be there is there.
    for (service, node) in SERVICES.into_iter().zip(nodes) {
        let exposed = scrape(node, app.http());
        for (name, listed) in &page {
            let due = listed.appears == FROM_THE_START && listed.services.contains(service);
            assert!(!due || exposed.contains_key(name), "{name} of {service}");
        }
    }

    traffic(&app, &users, |body| {
        let (management, name) = &vhost;
        let exchange = "auth_events_exchange";
        management.publish(name, exchange, "user.created", &json!({}), body)
    });

    for (service, node) in SERVICES.into_iter().zip(nodes) {
        let exposed = scrape(node, app.http());
        for (name, metric) in &exposed {
            let listed = page.get(name);
            let listed = listed.unwrap_or_else(|| panic!("{name} of {service} is not on the page"));
            assert!(listed.services.contains(service), "{name} of {service}");
            compare(name, listed, metric);
        }
        for (name, listed) in &page {
            let due = listed.services.contains(service) && listed.appears != WITH_AN_ENDPOINT;
            assert!(
                !due || exposed.contains_key(name),
                "{name} is on the page, but {service} does not expose it"
            );
        }
    }
}

/// A change, sends, a snapshot before, a full sync, requests to each API, and a `UserCreated`.
fn traffic(app: &App, users: &Node, publish: impl Fn(&[u8]) -> anyhow::Result<bool>) {
    let user = app.create_user("alice");
    app.everywhere(&user.key, Verdict::Accepted);
    let sent = app.send(&app.replicas[0], &user.key).expect("A answers");
    assert_eq!(sent.status, 202, "{}", sent.text);
    let refused = app.send(&app.replicas[0], "wrong").expect("A answers");
    assert_eq!(refused.status, 401, "{}", refused.text);
    let (good, output) = app.cli(&["full-sync"]);
    assert!(good, "{output}");
    let _ = app.sql("DELETE FROM users");
    app.everywhere(&user.key, Verdict::Unknown);
    let id = sent.body["message_id"].as_str().expect("message_id");
    eventually(DEADLINE, "the SMS to be sent", || {
        app.sql(&format!(
            "SELECT status FROM sms_messages WHERE message_id = '{id}'"
        )) == "sent"
    });
    let event = json!({
        "event_type": "UserCreated", "user_id": 1, "username": "alice",
        "email": "alice@example.com", "timestamp": 1.5
    });
    let event = event.to_string();
    eventually(DEADLINE, "the event to be routed", || {
        publish(event.as_bytes()).unwrap_or(false)
    });
    eventually(DEADLINE, "the event to be stored", || {
        let url = format!("{}/api/v1/auth-user-references/1", users.url);
        let answer = app.http().get(&url)?;
        ensure!(answer.status == 200, "{}", answer.text);
        Ok(())
    });
}

fn start_user_service(rabbitmq_url: &str, database_url: &str) -> Node {
    let command = ServiceCommand::new("user-service")
        .arg("serve")
        .env("RABBITMQ_URL", rabbitmq_url)
        .env("DATABASE_URL", database_url)
        .env("LOG_FORMAT", "json")
        .env("LISTEN", "127.0.0.1:0")
        .env("ADMIN_LISTEN", "127.0.0.1:0");
    Node::start(command)
}

fn compare(name: &str, listed: &Listed, exposed: &Exposed) {
    assert_eq!(listed.kind, exposed.kind, "type of {name}");
    let names = |labels: &BTreeMap<String, _>| labels.keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        names(&listed.labels),
        names(&exposed.labels),
        "labels of {name}"
    );
    for (label, values) in &exposed.labels {
        let known = &listed.labels[label];
        let unknown: Vec<_> = values.difference(known).collect();
        assert!(
            known.is_empty() || unknown.is_empty(),
            "{name}, {label}: {unknown:?}"
        );
    }
}

/// The metrics of a process, by the text format of Prometheus.
fn scrape(node: &Node, http: &Http) -> BTreeMap<String, Exposed> {
    let text = node.metrics(http);
    let mut metrics = BTreeMap::<String, Exposed>::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(declared) = line.strip_prefix("# TYPE ") {
            let (name, kind) = declared.split_once(' ').expect("a name and a type");
            name.clone_into(&mut current);
            let metric = Exposed {
                kind: kind.to_owned(),
                labels: BTreeMap::new(),
            };
            let twice = metrics.insert(current.clone(), metric);
            assert!(twice.is_none(), "{name} twice");
        } else if !line.starts_with('#') {
            let metric = metrics.get_mut(&current).expect("a type before");
            for (label, value) in labels(line) {
                // Made by the format, not by us.
                if label != "le" {
                    metric.labels.entry(label).or_default().insert(value);
                }
            }
        }
    }
    metrics
}

/// Of a series; none of our values has a quote or a comma in it.
fn labels(series: &str) -> Vec<(String, String)> {
    let Some((_, rest)) = series.split_once('{') else {
        return Vec::new();
    };
    let (labels, _) = rest.rsplit_once('}').expect("an end of the labels");
    let label = |label: &str| {
        let (name, value) = label.split_once('=').expect("a label");
        (name.to_owned(), value.trim_matches('"').to_owned())
    };
    labels.split(',').map(label).collect()
}

/// The table of the page: one row a metric, and each of its eight cells as the page's head says.
fn read_page() -> BTreeMap<String, Listed> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    let text = fs::read_to_string(&path).expect("the page is there");
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let mut page = BTreeMap::new();
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, unit, labels, of, appears, meaning, look] = cells[..] else {
            panic!("not eight cells: {row}");
        };
        for said in [unit, meaning, look] {
            assert!(!said.is_empty(), "an empty cell: {row}");
        }
        let known = [FROM_THE_START, WITH_AN_ENDPOINT].contains(&appears);
        assert!(known || appears.starts_with(FIRST), "{appears}: {row}");
        let listed = Listed {
            kind: kind.to_owned(),
            labels: read_labels(labels),
            services: read_services(of),
            appears: appears.to_owned(),
        };
        let twice = page.insert(ticked(name)[0].clone(), listed);
        assert!(twice.is_none(), "twice: {row}");
    }
    assert!(!page.is_empty(), "no table");
    page
}

/// `–`, or labels with a `;` between: the name, and either its values or words for what they are.
fn read_labels(cell: &str) -> BTreeMap<String, BTreeSet<String>> {
    let label = |label: &str| {
        let mut words = ticked(label).into_iter();
        let name = words
            .next()
            .unwrap_or_else(|| panic!("a label without a name: {cell}"));
        (name, words.collect())
    };
    let labels = cell.split(';').filter(|_| cell != "–");
    labels.map(label).collect()
}

fn read_services(cell: &str) -> BTreeSet<String> {
    if cell == "all" {
        return SERVICES.map(str::to_owned).into();
    }
    let services: BTreeSet<String> = cell.split(", ").map(str::to_owned).collect();
    assert!(
        services.iter().all(|it| SERVICES.contains(&it.as_str())),
        "{cell}"
    );
    services
}

/// What stands between backticks.
fn ticked(text: &str) -> Vec<String> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}
