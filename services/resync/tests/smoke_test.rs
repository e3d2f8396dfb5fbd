//! `resync smoke-test` against real servers and real processes. Run by `cargo xtask test`.

use std::path::Path;

use serde_json::Value;
use test_support::app::{ADMIN_TOKEN, App, DEADLINE};
use test_support::{ServiceCommand, ServiceProcess, eventually};

fn start(app: &App, server_a_url: &str, arguments: &[&str]) -> (ServiceProcess, impl Drop + use<>) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let token = dir.path().join("admin-token");
    std::fs::write(&token, format!("{ADMIN_TOKEN}\n")).expect("written");
    let binary = Path::new(env!("CARGO_BIN_EXE_resync"));
    let b = app.server_b.as_ref().expect("server B runs");
    let command = ServiceCommand::new("resync")
        .bin_dir(binary.parent().expect("a directory"))
        .env("SERVER_B_URL", &b.url)
        .env("ADMIN_TOKEN_FILE", token.display().to_string())
        .env("SERVER_A_URL", server_a_url)
        .env("LOG_FORMAT", "text")
        .arg("smoke-test");
    let command = arguments
        .iter()
        .fold(command, |command, argument| command.arg(*argument));
    (command.start().expect("resync starts"), dir)
}

/// Its exit code and what it wrote.
fn run(app: &App, server_a_url: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let (process, _dir) = start(app, server_a_url, arguments);
    let status = process.wait_exit(DEADLINE).expect("it ends");
    (status.code(), process.output())
}

#[test]
fn a_whole_installation_passes_and_no_user_is_left_behind() {
    let app = App::start();
    // As an Ingress's base URL may be written.
    let url = format!("{}/", app.replicas[0].url);
    let (code, output) = run(&app, &url, &[]);
    assert_eq!(code, Some(0), "{output}");
    assert_eq!(app.sql("SELECT count(*) FROM users"), "0", "{output}");

    let id = app.sql("SELECT message_id FROM sms_messages");
    assert!(output.contains(&id), "{output}");
    let answer = app
        .admin("GET", &format!("/sms/{id}"), None)
        .expect("B answers");
    assert_eq!(answer.body["status"], "sent", "{}", answer.text);
    assert_eq!(answer.body["message_id"], id);
    let user_id = answer.body["user_id"].as_i64().expect("a number");
    assert_eq!(
        app.sql("SELECT user_id FROM sms_messages"),
        user_id.to_string()
    );
    for field in ["submitted_at", "received_at", "status_changed_at"] {
        assert!(answer.body[field].is_string(), "{}", answer.text);
    }
    for private in ["4155550123", "smoke test"] {
        assert!(!answer.text.contains(private), "{}", answer.text);
        assert!(!output.contains(private), "{output}");
    }
}

#[test]
fn an_sms_that_server_b_has_not_taken_is_404() {
    let app = App::start();
    let path = "/sms/0198c5a0-0000-7000-8000-000000000001";
    let answer = app.admin("GET", path, None).expect("B answers");
    assert_eq!(answer.status, 404);
    assert_eq!(answer.body["code"], Value::from("sms_not_found"));
}

#[test]
fn an_installation_where_no_sms_is_accepted_fails_with_the_reason_and_leaves_no_user() {
    let app = App::start();
    // Nobody listens there.
    let (code, output) = run(&app, "http://127.0.0.1:1", &["--timeout-seconds", "2"]);
    assert_eq!(code, Some(1), "{output}");
    assert!(
        output.contains("server A did not accept the SMS"),
        "{output}"
    );
    assert_eq!(app.sql("SELECT count(*) FROM users"), "0", "{output}");

    let url = &app.replicas[0].url;
    let (code, output) = run(&app, url, &["--to", "12"]);
    assert_eq!(
        code,
        Some(1),
        "a number that is refused is not tried again: {output}"
    );
    assert!(output.contains("422"), "{output}");
    assert_eq!(app.sql("SELECT count(*) FROM users"), "0", "{output}");
}

#[test]
fn a_test_that_is_interrupted_deletes_its_user_first() {
    let app = App::start();
    let (process, _dir) = start(&app, "http://127.0.0.1:1", &[]);
    eventually(DEADLINE, "the test's user", || {
        app.sql("SELECT count(*) FROM users WHERE username LIKE 'smoke-test-%'") == "1"
    });
    process.terminate().expect("a signal");
    let status = process.wait_exit(DEADLINE).expect("it ends");
    assert_eq!(status.code(), Some(1), "{}", process.output());
    assert!(
        process.output().contains("interrupted"),
        "{}",
        process.output()
    );
    assert_eq!(app.sql("SELECT count(*) FROM users"), "0");
}
