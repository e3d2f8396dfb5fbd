//! What people do to users, keys and tokens by the command line, and what replicas see of it.

use std::fmt::Write as _;
use std::fs;

use serde_json::{Value, json};
use test_support::app::{ADMIN_TOKEN, App, Setup, Verdict};

const FIRST: &str = "1:BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
const SECOND: &str = "2:CAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAg=";

/// Tables, but no running service.
fn tables() -> App {
    let (setup, guards) = Setup::shared();
    let app = App::new(setup, Some(guards));
    let _ = done(&app, &["migrate"]);
    app
}

fn done(app: &App, arguments: &[&str]) -> String {
    let (ok, output) = app.cli(arguments);
    assert!(ok, "{arguments:?}: {output}");
    output
}

fn refused(app: &App, arguments: &[&str]) -> String {
    let (ok, output) = app.cli(arguments);
    assert!(!ok, "{arguments:?}: {output}");
    output
}

fn json_of(app: &App, arguments: &[&str]) -> Value {
    let output = done(app, &[arguments, &["--output", "json"]].concat());
    let start = output.find(['{', '[']).expect("JSON");
    serde_json::from_str(&output[start..]).unwrap_or_else(|error| panic!("{error}: {output}"))
}

#[test]
fn the_command_line_offers_all_of_users_and_keys_by_id_or_name_and_is_logged() {
    let app = tables();
    let alice = json_of(&app, &["users", "create", "alice"]);
    let id = alice["user_id"].to_string();
    let _ = done(&app, &["users", "create", "77"]);
    let _ = done(
        &app,
        &["users", "rotate-key", "alice", "--overlap-seconds", "600"],
    );
    let shown = json_of(&app, &["users", "show", "alice"]);
    assert_eq!(
        (&shown["user_id"], shown["keys"].as_array().map(Vec::len)),
        (&alice["user_id"], Some(2))
    );
    let _ = done(
        &app,
        &[
            "keys",
            "revoke",
            &id,
            &shown["keys"][1]["key_id"].to_string(),
        ],
    );
    assert_eq!(
        json_of(&app, &["keys", "list", &id])
            .as_array()
            .map(Vec::len),
        Some(1)
    );

    let version = json_of(&app, &["users", "show", &id])["version"].to_string();
    let update = [
        "users",
        "update",
        "alice",
        "--active",
        "false",
        "--if-version",
    ];
    assert!(refused(&app, &[&update[..], &["1"]].concat()).contains("has changed"));
    let _ = done(&app, &[&update[..], &[&version]].concat());
    let inactive = json_of(
        &app,
        &[
            "users",
            "list",
            "--active",
            "false",
            "--username-prefix",
            "al",
        ],
    );
    assert_eq!(inactive["users"].as_array().map(Vec::len), Some(1));
    // Nobody has the id 77, but a user of that name is meant by something else.
    assert!(refused(&app, &["users", "show", "77"]).contains("give the user_id"));
    assert!(refused(&app, &["users", "delete", "nobody"]).contains("nobody"));
    let _ = done(&app, &["users", "delete", "alice"]);

    let actors = app.sql("SELECT DISTINCT actor FROM audit_log");
    assert!(
        actors.starts_with("cli:") && !actors.contains('\n'),
        "{actors}"
    );
    let arguments = [
        "audit-log",
        "--user-id",
        &id,
        "--actor",
        &actors,
        "--limit",
        "2",
    ];
    let logged = json_of(&app, &arguments);
    // The user, and its last key.
    let actions = logged["entries"].as_array().expect("a page").iter();
    let actions: Vec<_> = actions.map(|it| it["action"].to_string()).collect();
    assert!(
        actions.contains(&"\"user.deleted\"".to_owned()),
        "{actions:?}"
    );
    let older = logged["next_cursor"].to_string();
    let listed = done(&app, &["audit-log", "--user-id", &id, "--cursor", &older]);
    assert!(
        listed.contains("user.created") && !listed.contains("user.deleted"),
        "{listed}"
    );
    assert_eq!(
        done(&app, &["audit-log", "--actor", "nobody"]).trim(),
        "no changes"
    );
}

#[test]
fn a_token_made_by_the_command_line_works_until_it_is_revoked() {
    let (setup, guards) = Setup::shared();
    let mut app = App::new(setup, Some(guards));
    app.start_all(0);
    let made = json_of(&app, &["tokens", "create", "reports", "--role", "reader"]);
    let secret = made["secret"].as_str().expect("a token").to_owned();
    let url = format!(
        "{}/admin/v1/users",
        app.server_b.as_ref().expect("server B runs").url
    );
    let bearer = format!("Bearer {secret}");
    let status = |method: &str| {
        let body = json!({"username": "bob"});
        let body = (method == "POST").then_some(&body);
        let header = Some(("authorization", bearer.as_str()));
        app.http()
            .call(method, &url, header, body)
            .expect("B answers")
            .status
    };
    assert_eq!((status("GET"), status("POST")), (200, 403));
    let _ = done(&app, &["tokens", "revoke", "reports"]);
    assert_eq!(status("GET"), 401);
    let listed = json_of(&app, &["tokens", "list"]);
    assert!(listed[0]["revoked_at"].is_string() && !listed.to_string().contains(&secret));
    let output = app.output();
    assert!(!output.contains(&secret) && !output.contains(ADMIN_TOKEN));
}

#[test]
fn resealing_is_no_event_keeps_replicas_proven_and_lets_the_old_sealing_key_go() {
    let (setup, guards) = Setup::shared();
    let mut app = App::new(setup.env("KEY_SEALING_KEY", FIRST), Some(guards));
    app.start_all(2);
    let users: Vec<_> = (0..20)
        .map(|number| app.create_user(&format!("user-{number}")))
        .collect();
    app.everywhere(&users[19].key, Verdict::Accepted);
    let sequence = app.sql("SELECT sequence FROM relay_state");

    app.kill_b();
    let both = format!("{SECOND}\n{FIRST}");
    app.setup_mut()
        .environment
        .push(("KEY_SEALING_KEY".to_owned(), both));
    app.start_b();
    app.wait_ready();
    let result = json_of(&app, &["keys", "reseal"]);
    assert_eq!(
        (&result["resealed"], &result["unopened"]),
        (&20.into(), &0.into()),
        "{result}"
    );
    assert_eq!(
        result["sealed_with"],
        json!([{"key_id": 2, "api_keys": 20, "events": 0}])
    );
    let _ = done(&app, &["replicas", "--wait"]);
    assert_eq!(
        app.sql("SELECT sequence FROM relay_state"),
        sequence,
        "nothing was published"
    );

    app.kill_b();
    app.setup_mut()
        .environment
        .push(("KEY_SEALING_KEY".to_owned(), SECOND.to_owned()));
    app.start_b();
    app.wait_ready();
    let _ = done(&app, &["full-sync"]);
    let _ = app.sql("UPDATE users SET daily_quota = 5");
    let _ = done(&app, &["replicas", "--wait"]);
    for user in &users {
        app.everywhere(&user.key, Verdict::Accepted);
    }
    assert!(
        !app.output().contains("cannot be opened"),
        "the second key opens all"
    );
    app.assert_no_faults();
}

#[test]
fn an_import_with_any_bad_line_imports_nothing_and_names_the_lines() {
    let app = tables();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("users.csv");
    let keys = dir.path().join("keys.csv");
    let import = |csv: &str, more: &[&str]| {
        fs::write(&file, csv).expect("written");
        let (file, keys) = (file.display().to_string(), keys.display().to_string());
        let arguments = ["users", "import", &file, "--generated-keys-out", &keys];
        app.cli(&[&arguments[..], more].concat())
    };
    let mut csv = "username,daily_quota,api_key\n".to_owned();
    for number in 0..2_500 {
        let _ = writeln!(csv, "user-{number},5,");
    }
    let (ok, output) = import(
        &format!("{csv}user-7,1,\nzoe,-1,\nyve,1,same-key-1\nxia,1,same-key-1\n"),
        &[],
    );
    assert!(!ok, "{output}");
    for fault in [
        "line 2502, column username: is the same as in line 9",
        "line 2503, column daily_quota",
        "line 2505, column api_key: is the same as in line 2504",
    ] {
        assert!(output.contains(fault), "{fault} is not in\n{output}");
    }
    assert_eq!(app.sql("SELECT count(*) FROM users"), "0");
    assert!(!keys.exists());

    let (ok, output) = import(&csv, &[]);
    assert!(
        ok && output.contains("2500 users created, 0 updated, 0 skipped"),
        "{output}"
    );
    assert_eq!(
        fs::read_to_string(&keys).expect("the keys").lines().count(),
        2_501
    );
    assert_eq!(
        app.sql("SELECT count(*) FROM outbox WHERE old_image IS NULL"),
        "2500",
        "one event each"
    );

    let (ok, output) = import("username,api_key\nuser-3,\nann,the-key-of-ann\n", &[]);
    assert!(
        !ok && output.contains("line 2, column username: exists already as user"),
        "{output}"
    );
    fs::remove_file(&keys).expect("the keys");
    let (ok, output) = import(
        "username,api_key\nuser-3,other-key-3\nann,the-key-of-ann\n",
        &["--on-conflict", "skip"],
    );
    assert!(
        ok && output.contains("1 users created, 0 updated, 1 skipped"),
        "{output}"
    );
    let csv = "username,daily_quota,api_key\nuser-3,9,other-key-3\nann,,\n";
    let (ok, output) = import(csv, &["--on-conflict", "update"]);
    assert!(
        ok && output.contains("0 users created, 2 updated, 0 skipped"),
        "{output}"
    );
    let changed = "SELECT daily_quota || ' ' || prefix FROM users JOIN api_keys USING (user_id)
                   WHERE username IN ('ann', 'user-3') ORDER BY username";
    assert_eq!(app.sql(changed), "1000 the\n9 ot");
    let taken = "username,api_key\nuser-4,other-key-3\n";
    let (ok, output) = import(taken, &["--on-conflict", "update"]);
    assert!(
        !ok && output.contains("line 2, column api_key: is in use by user"),
        "{output}"
    );
}
