//! The private servers, as their users see them: started, killed, found again.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::LazyLock;

use common::tls_files;
use tempfile::TempDir;
use test_support::servers::{
    Management, Postgres, PostgresOptions, RabbitMq, RabbitMqOptions, packages, psql,
};

static PACKAGES: LazyLock<packages::Programs> =
    LazyLock::new(|| packages::ensure().expect("the servers' packages"));

fn scratch() -> TempDir {
    LazyLock::force(&PACKAGES);
    tempfile::tempdir().expect("a temporary directory")
}

#[test]
fn committed_rows_survive_a_kill_of_postgres() {
    let dir = scratch();
    let mut postgres = Postgres::start(dir.path(), &PostgresOptions::default()).expect("a start");
    postgres
        .ensure_database("identity")
        .expect("a new database");
    postgres
        .ensure_database("identity")
        .expect("the same database");
    let url = postgres.url("identity");
    psql(&url, "CREATE TABLE kept AS SELECT 42 AS answer").expect("a table");
    // A session that is still busy must not keep the next start from working.
    let mut busy = std::process::Command::new(PACKAGES.postgres_bin.join("psql"))
        .args([url.as_str(), "-c", "SELECT pg_sleep(600)"])
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("psql starts");

    postgres.kill9().expect("a kill");
    assert!(psql(&url, "SELECT 1").is_err());
    postgres.start_again().expect("another start");

    assert_eq!(
        psql(&url, "SELECT answer FROM kept").expect("the table"),
        "42"
    );
    assert!(!busy.wait().expect("psql ends").success());
    postgres.stop().expect("a stop");
    assert!(psql(&url, "SELECT 1").is_err());
}

#[test]
fn a_second_owner_takes_over_what_the_first_left_running() {
    let dir = scratch();
    let first = Postgres::start(dir.path(), &PostgresOptions::for_tests()).expect("a start");
    let (url, port) = (first.url("postgres"), first.port());
    psql(&url, "CREATE TABLE kept AS SELECT 42 AS answer").expect("a table");
    // As if the first owner had been killed: nobody stops its server.
    std::mem::forget(first);

    let second = Postgres::start(dir.path(), &PostgresOptions::for_tests()).expect("a start");

    assert_eq!(second.port(), port);
    assert_eq!(
        psql(&second.url("postgres"), "SELECT answer FROM kept").expect("the table"),
        "42"
    );
}

#[test]
fn postgres_runs_below_a_directory_that_only_its_owner_enters() {
    let dir = scratch();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).expect("own directory");
    let deep = dir.path().join("a/long/path").join("x".repeat(120));
    let postgres = Postgres::start(&deep, &PostgresOptions::for_tests()).expect("a start");
    assert_eq!(
        psql(&postgres.url("postgres"), "SHOW track_commit_timestamp").expect("SQL"),
        "on"
    );
    let mode = fs::metadata(deep.join("password"))
        .expect("the password")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn postgres_offers_tls_with_the_given_identity() {
    let dir = scratch();
    let tls = tls_files(dir.path());
    let authority = tls.authority.display().to_string();
    let options = PostgresOptions {
        tls: Some(tls),
        ..PostgresOptions::for_tests()
    };
    let postgres = Postgres::start(&dir.path().join("pg"), &options).expect("a start");
    let url = postgres.url("postgres").replace("127.0.0.1", "localhost");
    let url = format!("{url}?sslmode=verify-full&sslrootcert={authority}");
    let ssl = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    assert_eq!(psql(&url, ssl).expect("a verified connection"), "t");
}

#[test]
fn a_durable_queue_survives_a_kill_of_rabbitmq() {
    let dir = scratch();
    let mut broker = RabbitMq::start(dir.path(), &RabbitMqOptions::default()).expect("a start");
    let management = Management::from_url(&broker.management_url()).expect("a valid URL");
    management.create_vhost("my vhost").expect("a vhost");
    assert!(broker.amqp_url("my vhost").ends_with("/my%20vhost"));
    put_queue(&broker, "my%20vhost", "kept");
    let persistent = serde_json::json!({"delivery_mode": 2, "type": "test"});
    assert!(
        management
            .publish("my vhost", "", "kept", &persistent, b"\xff\x00")
            .expect("publish")
    );
    assert!(
        !management
            .publish("my vhost", "", "none", &persistent, b"")
            .expect("publish")
    );

    broker.kill9().expect("a kill");
    assert!(management.queues("my vhost").is_err());
    broker.start_again().expect("another start");

    assert!(
        management
            .queue("my vhost", "kept")
            .expect("an answer")
            .is_some()
    );
    assert!(
        management
            .queue("my vhost", "none")
            .expect("an answer")
            .is_none()
    );
    let messages = management
        .get_messages("my vhost", "kept", 10)
        .expect("messages");
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0]["properties"]["type"], "test");
    management.delete_vhost("my vhost").expect("a deletion");
    assert!(management.queues("my vhost").is_err());
}

#[test]
fn a_second_broker_takes_over_what_the_first_left_running() {
    let dir = scratch();
    let tls = tls_files(dir.path());
    let options = RabbitMqOptions {
        tls: Some(tls),
        config: Vec::new(),
    };
    let first = RabbitMq::start(&dir.path().join("mq"), &options).expect("a start");
    let url = first.amqp_url("/");
    assert!(first.amqps_url("/").starts_with("amqps://"));
    put_queue(&first, "%2F", "kept");
    std::mem::forget(first);

    let mut second = RabbitMq::start(&dir.path().join("mq"), &options).expect("a start");

    assert_eq!(second.amqp_url("/"), url);
    assert!(
        second
            .management()
            .queue("/", "kept")
            .expect("an answer")
            .is_some()
    );
    second.stop().expect("a stop");
    assert_eq!(
        test_support::children::kill_leftovers(dir.path())
            .expect("a look")
            .len(),
        0
    );
}

/// A durable queue, which the client of the management API does not declare.
fn put_queue(broker: &RabbitMq, vhost: &str, name: &str) {
    let url = broker.management_url();
    let (login, address) = url
        .trim_start_matches("http://")
        .split_once('@')
        .expect("a login");
    let request = format!("http://{address}/api/queues/{vhost}/{name}");
    let status = std::process::Command::new("curl")
        .args([
            "-sS",
            "-u",
            login,
            "-X",
            "PUT",
            "-d",
            r#"{"durable":true}"#,
            &request,
        ])
        .status()
        .expect("curl runs");
    assert!(status.success());
}
