//! One trace for a change, one for an SMS, through all processes.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tempfile::TempDir;
use test_support::app::{App, DEADLINE, Setup, Verdict};
use test_support::eventually;
use test_support::servers::{Collector, ExportedSpan};

use crate::collector;
use crate::gateway::{Behaviour, Gateway};
use crate::tree::{CLIENT, CONSUMER, PRODUCER, SERVER, Spans};

const INTERNAL: u64 = 1;
const SEND_EVENT: &str = "send config_events_exchange";
const APPLY: &str = "process config_events_exchange:server-a.{instance}.{connection}";
const KEY: &str = "canary-9d8c7b6a5f4e3d2c1b0a";
const NUMBER: &str = "+14155559876";
const TEXT: &str = "canary text of an SMS";
const SERVICE_TOKEN: &str = "canary-service-token-0123456789";
const RECEIPT_SECRET: &str = "canary-of-receipts-0123456789";

fn app(collector: &Collector, more: &[(&str, &str)]) -> App {
    let (setup, guards) = Setup::shared();
    let setup = setup
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.grpc_url())
        .env("OTEL_BSP_SCHEDULE_DELAY", "500")
        .env("SERVICE_TOKEN", SERVICE_TOKEN)
        .env(
            "OTEL_RESOURCE_ATTRIBUTES",
            "deployment.environment.name=test",
        );
    let setup = more
        .iter()
        .fold(setup, |setup, (name, value)| setup.env(name, value));
    let mut app = App::new(setup, Some(guards));
    app.start_all_asking(2);
    app
}

/// A file that names the gateway as the one provider.
fn providers(dir: &Path, gateway: &Gateway) -> String {
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let secret = write("secret", RECEIPT_SECRET);
    let file = json!({
        "providers": {"first": {"http": {
            "url": gateway.url(),
            "auth": {"bearer": {"file": secret}},
            "request": {"to": "to", "from": "from", "body": "text"},
            "message_id": "/data/id",
            "receipts": {
                "auth": {"bearer": {"file": secret}},
                "message_id": "/id",
                "status": "/status",
                "statuses": {"DELIVRD": {"status": "delivered"}},
            },
        }}},
        "routes": [{"prefix": "", "providers": ["first"]}],
    });
    write("providers.yaml", &file.to_string())
}

/// Whose SMS go to the gateway; the directory has its file of providers.
fn app_with_gateway(collector: &Collector) -> (App, Gateway, TempDir) {
    let gateway = Gateway::start("first");
    let files = tempfile::tempdir().expect("a directory");
    let providers = providers(files.path(), &gateway);
    let app = app(collector, &[("PROVIDERS_FILE", &providers)]);
    (app, gateway, files)
}

/// From a change's span by way of the relay to both replicas; gives the producer's span.
fn reaches_both_replicas<'a>(spans: &'a Spans, change: &ExportedSpan) -> Result<&'a ExportedSpan> {
    let sent = spans.child(change, SEND_EVENT, PRODUCER)?;
    applied_twice(spans, sent)?;
    Ok(sent)
}

fn applied_twice(spans: &Spans, sent: &ExportedSpan) -> Result<()> {
    let applied = spans.children(sent, APPLY, CONSUMER, 2)?;
    for span in &applied {
        ensure!(span.service == "server-a", "{span:?}");
        ensure!(span.links == [sent.span_id.clone()], "{span:?}");
    }
    let instance = |span: &ExportedSpan| span.attribute("service.instance.id").to_owned();
    ensure!(instance(applied[0]) != instance(applied[1]), "{applied:?}");
    Ok(())
}

#[test]
#[ignore = "needs the collector"]
fn a_change_is_one_trace_from_the_admin_s_request_to_every_replica() {
    let (collector, _dir) = collector();
    let app = app(&collector, &[]);
    let body = json!({"username": "alice", "api_key": KEY});
    let created = app.admin("POST", "/users", Some(&body)).expect("B answers");
    assert_eq!(created.status, 201, "{}", created.text);

    let trace_id = Spans::eventually(&collector, "the change in both replicas", |spans| {
        let requests = spans.named("POST /admin/v1/users", SERVER);
        ensure!(requests.len() == 1, "{requests:?}");
        let request = requests[0];
        ensure!(request.parent_id.is_empty(), "{request:?}");
        ensure!(
            request.attribute("http.response.status_code") == 201,
            "{request:?}"
        );
        ensure!(
            request.attribute("deployment.environment.name") == "test",
            "{request:?}"
        );
        let insert = spans.child(request, "INSERT users", CLIENT)?;
        ensure!(
            insert.attribute("db.system.name") == "postgresql",
            "{insert:?}"
        );
        let sent = reaches_both_replicas(spans, request)?;
        ensure!(sent.service == "server-b", "{sent:?}");
        ensure!(sent.attribute("messaging.system") == "rabbitmq", "{sent:?}");
        let batch = spans.linking_to(sent, SEND_EVENT, CLIENT)?;
        ensure!(
            batch.attribute("messaging.batch.message_count") == 1,
            "{batch:?}"
        );
        ensure!(batch.trace_id != sent.trace_id, "{batch:?}");
        Ok(request.trace_id.clone())
    });
    let output = app.output();
    let answered = output.lines().find(|line| line.contains("answered"));
    let answered = answered.expect("requests are logged");
    assert!(
        answered.contains(&format!("\"trace_id\":\"{trace_id}\"")),
        "{answered}"
    );

    let user_id = created.body["user_id"].to_string();
    let (ok, said) = app.cli(&["users", "update", &user_id, "--daily-quota", "7"]);
    assert!(ok, "{said}");
    Spans::eventually(&collector, "the command's change", |spans| {
        let commands = spans.named("server-b users update", INTERNAL);
        ensure!(commands.len() == 1, "{commands:?}");
        reaches_both_replicas(spans, commands[0])?;
        Ok(())
    });

    // Plain SQL has no trace to go on with: it begins at the relay.
    let _ = app.sql("UPDATE users SET daily_quota = 8");
    Spans::eventually(&collector, "the change by SQL", |spans| {
        let mut sent = spans.named(SEND_EVENT, PRODUCER);
        sent.retain(|span| span.parent_id.is_empty());
        ensure!(sent.len() == 1, "{sent:?}");
        applied_twice(spans, sent[0])
    });
    let text = collector.text();
    assert!(!text.contains(KEY) && !text.contains("server-a.a-"));
}

#[test]
#[ignore = "needs the collector"]
fn an_sms_is_one_trace_from_its_request_to_the_provider_s_receipt() {
    let (collector, _dir) = collector();
    let (app, gateway, _files) = app_with_gateway(&collector);
    let body = json!({"username": "alice", "api_key": KEY});
    let created = app.admin("POST", "/users", Some(&body)).expect("B answers");
    assert_eq!(created.status, 201, "{}", created.text);
    app.everywhere(KEY, Verdict::Accepted);
    let sms = json!({"to": NUMBER, "body": TEXT});
    let sent = app.replicas[0].send(app.http(), KEY, &sms);
    let sent = sent.expect("A answers");
    assert_eq!(sent.status, 202, "{}", sent.text);
    let id = sent.body["message_id"].as_str().expect("message_id");

    let url = format!(
        "{}/receipts/v1/first",
        app.server_b.as_ref().expect("it runs").url
    );
    let receipt = json!({"id": "first-0", "status": "DELIVRD"});
    let secret = format!("Bearer {RECEIPT_SECRET}");
    eventually(DEADLINE, "the SMS to be sent", || {
        app.sql("SELECT status FROM sms_messages") == "sent"
    });
    let taken = app.http().call(
        "POST",
        &url,
        Some(("authorization", &secret)),
        Some(&receipt),
    );
    assert_eq!(taken.expect("B answers").status, 200);
    let status = app.http().call(
        "GET",
        &format!("{}/api/v1/sms/{id}", app.replicas[0].url),
        Some(("api-key", KEY)),
        None,
    );
    assert_eq!(status.expect("A answers").status, 200);

    let (_, port) = gateway.address().rsplit_once(':').expect("a port");
    let port: i64 = port.parse().expect("a number");
    Spans::eventually(&collector, "the receipt of the SMS", |spans| {
        let mut requests = spans.named("POST /api/v1/sms/send", SERVER);
        requests.retain(|span| span.attribute("http.response.status_code") == 202);
        ensure!(requests.len() == 1, "{requests:?}");
        let request = requests[0];
        ensure!(request.service == "server-a", "{request:?}");
        let sent = spans.child(request, "send sms_outbound_queue", PRODUCER)?;
        ensure!(sent.attribute("messaging.message.id") == id, "{sent:?}");
        let batch = spans.linking_to(sent, "receive sms_outbound_queue", CLIENT)?;
        ensure!(batch.trace_id != sent.trace_id, "{batch:?}");
        spans.child(batch, "INSERT sms_messages", CLIENT)?;
        let processed = spans.child(sent, "process sms_outbound_queue", CONSUMER)?;
        ensure!(processed.service == "server-b", "{processed:?}");
        let links = [sent.span_id.clone(), batch.span_id.clone()];
        ensure!(processed.links == links, "{processed:?}");
        let handed_over = spans.child(processed, "send SMS", CLIENT)?;
        ensure!(
            handed_over.attribute("sms.provider") == "first",
            "{handed_over:?}"
        );
        let asked = spans.child(handed_over, "POST", CLIENT)?;
        ensure!(
            asked.attribute("http.response.status_code") == 202,
            "{asked:?}"
        );
        ensure!(
            asked.attribute("server.address") == "127.0.0.1",
            "{asked:?}"
        );
        ensure!(asked.attribute("server.port") == port, "{asked:?}");
        let told = spans.child(processed, "process delivery receipt", INTERNAL)?;
        ensure!(told.attribute("sms.outcome") == "applied", "{told:?}");
        ensure!(told.links.len() == 1, "{told:?}");
        let requests = spans.named("GET /api/v1/sms/{message_id}", SERVER);
        let [request] = requests.as_slice() else {
            anyhow::bail!("{requests:?}");
        };
        let asked = spans.child(request, "GET", CLIENT)?;
        let route = "GET /internal/v1/users/{user_id}/sms/{message_id}";
        let answered = spans.child(asked, route, SERVER)?;
        ensure!(answered.service == "server-b", "{answered:?}");
        Ok(())
    });
    let text = collector.text();
    for secret in [
        // The gateway's path, which may hold a secret.
        "/v1/messages",
        KEY,
        NUMBER,
        &NUMBER[1..],
        TEXT,
        RECEIPT_SECRET,
        SERVICE_TOKEN,
    ] {
        assert!(!text.contains(secret), "{secret}");
    }
}

#[test]
#[ignore = "needs the collector"]
fn a_gateway_that_refuses_or_does_not_answer_is_an_error_in_the_trace() {
    let (collector, _dir) = collector();
    let (app, gateway, _files) = app_with_gateway(&collector);
    let user = app.create_user("alice");
    app.everywhere(&user.key, Verdict::Accepted);
    for (behaviour, code) in [
        (Behaviour::Refuse(400, None), "provider_refused"),
        (Behaviour::Hang, "provider_timeout"),
    ] {
        gateway.behave(behaviour);
        let sent = app.send(&app.replicas[0], &user.key).expect("A answers");
        assert_eq!(sent.status, 202, "{}", sent.text);
        Spans::eventually(&collector, code, |spans| {
            let asked = spans.named("POST", CLIENT);
            let failed = |span: &&&ExportedSpan| span.attribute("error.type") == code;
            let asked = asked.iter().find(failed).context("none")?;
            let handed_over = spans.named("send SMS", CLIENT);
            let parent = |span: &&ExportedSpan| span.span_id == asked.parent_id;
            ensure!(handed_over.into_iter().any(|it| parent(&it)), "{asked:?}");
            Ok(())
        });
    }
}

#[test]
#[ignore = "needs the collector"]
fn with_the_sampler_off_only_what_a_caller_has_sampled_is_recorded() {
    let (collector, _dir) = collector();
    let app = app(
        &collector,
        &[("OTEL_TRACES_SAMPLER", "parentbased_always_off")],
    );
    let user = app.create_user("alice");
    app.everywhere(&user.key, Verdict::Accepted);
    let caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let url = format!("{}/", app.replicas[0].url);
    let answer = app
        .http()
        .call("GET", &url, Some(("traceparent", caller)), None);
    assert_eq!(answer.expect("A answers").status, 200);

    let spans = Spans::eventually(&collector, "the caller's span", |spans| {
        ensure!(!spans.0.is_empty(), "none");
        Ok(spans.0.clone())
    });
    let [span] = spans.as_slice() else {
        panic!("{spans:?}");
    };
    assert_eq!(span.name, "GET /");
    assert_eq!(span.parent_id, "b7ad6b7169203331");
    for (node, ended) in app.nodes().zip([0.0, 1.0, 0.0]) {
        let counted = node.metric(app.http(), "identity_trace_spans_total", "ended");
        assert!(
            (counted - ended).abs() < 0.5,
            "{counted} spans, not {ended}"
        );
    }
}
