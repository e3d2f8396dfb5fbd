//! No API key in any log line, error, trace or metric.

use serde_json::json;
use test_support::OtlpSink;
use test_support::app::{App, Setup, Verdict};

const CANARY: &str = "canary-4f1d0c8b7a6e5d4c3b2a";

#[test]
fn no_api_key_appears_in_logs_errors_status_or_metrics() {
    let (setup, guards) = Setup::shared();
    // The most talkative level that an operator would run with.
    let traces = OtlpSink::start(0).expect("a port");
    let setup = setup
        .env("LOG", "debug")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &traces.url())
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
    let (management, vhost) = (guards.1.management().clone(), guards.1.name().to_owned());
    let mut app = App::new(setup, Some(guards));
    app.start_all(2);
    let mut seen = String::new();

    let created = app
        .admin(
            "POST",
            "/users",
            Some(&json!({"username": "alice", "api_key": key(1)})),
        )
        .expect("B answers");
    assert_eq!(created.status, 201, "{}", created.text);
    app.everywhere(&key(1), Verdict::Accepted);
    let id = created.body["user_id"].as_i64().expect("user_id");
    let sent = app.send(&app.replicas[0], &key(1)).expect("A answers");
    assert_eq!(sent.status, 202, "{}", sent.text);

    seen += &mistakes(&app);

    let rotated = app
        .admin(
            "POST",
            &format!("/users/{id}/rotate-key"),
            Some(&json!({"api_key": key(3)})),
        )
        .expect("B answers");
    assert_eq!(rotated.status, 200, "{}", rotated.text);
    app.everywhere(&key(3), Verdict::Accepted);
    let garbage = format!(r#"{{"user_id": "{CANARY}", "api_key": "{CANARY}"}}"#);
    for (exchange, routing_key) in [
        ("config_events_exchange", ""),
        ("", "sms_outbound_queue"),
        ("", "config_snapshot_requests"),
        ("", "config_replica_reports"),
    ] {
        management
            .publish(
                &vhost,
                exchange,
                routing_key,
                &json!({"type": "user.updated"}),
                garbage.as_bytes(),
            )
            .expect("the broker takes it");
    }
    let (ok, output) = app.cli(&["full-sync"]);
    assert!(ok, "{output}");
    seen += &output;
    let deleted = app
        .admin("DELETE", &format!("/users/{id}"), None)
        .expect("B answers");
    assert_eq!(deleted.status, 204, "{}", deleted.text);
    app.everywhere(&key(3), Verdict::Unknown);

    for node in app.nodes() {
        seen += &node.metrics(app.http());
        seen += &node.status(app.http()).to_string();
        node.process.terminate().expect("it can be signalled");
        node.process
            .wait_exit(test_support::app::DEADLINE)
            .expect("it ends");
    }
    seen += &app.output();
    assert!(
        seen.contains("full sync"),
        "the log must be there to be searched"
    );
    // All processes have ended, and so sent their last spans.
    assert!(
        traces.has("send SMS"),
        "the traces must be there to be searched"
    );
    for secret in [CANARY, "14155550123", "a test"] {
        assert!(!traces.has(secret), "{secret} in a trace");
    }
    let leaks: Vec<&str> = seen.lines().filter(|line| line.contains(CANARY)).collect();
    assert!(leaks.is_empty(), "{leaks:#?}");
    // Nor phone numbers and texts.
    assert!(!seen.contains("14155550123") && !seen.contains("a test"));
}

fn key(number: u32) -> String {
    format!("{CANARY}-{number}")
}

/// What comes back must not repeat the key either.
fn mistakes(app: &App) -> String {
    let mut seen = String::new();
    for (path, body) in [
        ("/users", json!({"username": "bob", "api_key": key(1)})),
        (
            "/users",
            json!({"username": "bob", "api_key": format!("{CANARY} with space")}),
        ),
        ("/users", json!({"username": "bob", "api_key": [CANARY]})),
        ("/users", json!({"username": "bob", "api_kye": CANARY})),
    ] {
        let answer = app.admin("POST", path, Some(&body)).expect("B answers");
        assert!(answer.status >= 400, "{}", answer.text);
        seen += &answer.text;
    }
    seen += &app.send(&app.replicas[0], &key(9)).expect("A answers").text;
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let csv = format!("username,api_key\ncarol,{}\ndave,{CANARY} bad\n", key(2));
    std::fs::write(file.path(), csv).expect("the CSV file is written");
    seen += &app
        .cli(&["users", "import", &file.path().display().to_string()])
        .1;
    seen += &app.cli(&["users", "list"]).1;
    seen
}
