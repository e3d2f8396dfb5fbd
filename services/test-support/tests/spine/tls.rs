//! The TLS forms of both URLs, against servers with certificates made by the test.

use std::path::Path;

use test_support::app::{App, DEADLINE, Setup, Verdict};
use test_support::eventually;
use test_support::servers::{Postgres, PostgresOptions, RabbitMq, RabbitMqOptions};

use crate::common::tls_files;

struct TlsServers {
    broker: RabbitMq,
    postgres: Postgres,
    authority: String,
    _dir: tempfile::TempDir,
}

fn servers() -> TlsServers {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let tls = tls_files(dir.path());
    let start = |name: &str| dir.path().join(name);
    let broker = RabbitMq::start(
        &start("rabbitmq"),
        &RabbitMqOptions {
            tls: Some(tls.clone()),
            ..RabbitMqOptions::default()
        },
    )
    .expect("the broker starts");
    let postgres = Postgres::start(
        &start("postgres"),
        &PostgresOptions {
            tls: Some(tls.clone()),
            ..PostgresOptions::for_tests()
        },
    )
    .expect("PostgreSQL starts");
    postgres.ensure_database("identity").expect("a database");
    TlsServers {
        broker,
        postgres,
        authority: tls.authority.display().to_string(),
        _dir: dir,
    }
}

fn database_url(servers: &TlsServers, authority: &str) -> String {
    let url = servers.postgres.url("identity");
    format!("{url}?sslmode=verify-full&sslrootcert={authority}")
}

#[test]
fn amqps_with_a_ca_file_and_verify_full_carry_the_whole_line() {
    let servers = servers();
    let setup = Setup::on(
        &servers.broker.amqps_url("/"),
        &database_url(&servers, &servers.authority),
    )
    .env("RABBITMQ_CA_FILE", &servers.authority);
    let mut app = App::new(setup, None);
    app.start_all(1);
    let user = app.create_user("alice");
    app.everywhere(&user.key, Verdict::Accepted);
    let answer = app.send(&app.replicas[0], &user.key).expect("A answers");
    assert_eq!(answer.status, 202, "{}", answer.text);
    eventually(DEADLINE, "the SMS in the table", || {
        app.sql("SELECT count(*) FROM sms_messages") == "1"
    });
    assert_eq!(
        app.sql(
            "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                 WHERE application_name = 'server-b'"
        ),
        "t"
    );
}

#[test]
fn a_certificate_of_an_unknown_authority_is_refused() {
    let servers = servers();
    let other = tempfile::tempdir().expect("a temporary directory");
    let stranger = tls_files(other.path()).authority.display().to_string();
    let setup = Setup::on(
        &servers.broker.amqps_url("/"),
        &database_url(&servers, &stranger),
    )
    .env("RABBITMQ_CA_FILE", &stranger);
    let mut app = App::new(setup, None);
    app.start_a();
    app.start_b();
    let replica = &app.replicas[0];
    eventually(DEADLINE, "the replica to have tried", || {
        !replica.status(app.http())["last_error"].is_null()
    });
    assert!(replica.ready(app.http()).is_err());
    let b = app.server_b.as_ref().expect("server B runs");
    eventually(DEADLINE, "server B to have tried", || {
        let unready = b.ready(app.http()).expect_err("not reachable").to_string();
        anyhow::ensure!(unready.contains("certificate"), "{unready}");
        Ok(())
    });
}

#[test]
fn a_ca_file_that_is_not_there_is_named_at_once() {
    let missing = Path::new("/nonexistent/ca.pem");
    let (setup, _guards) = Setup::shared();
    let setup = setup.env("RABBITMQ_CA_FILE", &missing.display().to_string());
    let app = App::new(setup, None);
    let (ok, output) = app.cli(&["serve"]);
    assert!(!ok);
    assert!(
        output.contains("RABBITMQ_CA_FILE") && output.contains("/nonexistent/ca.pem"),
        "{output}"
    );
}
