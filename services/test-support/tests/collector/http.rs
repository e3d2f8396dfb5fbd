//! The other ways to a collector: OTLP over HTTP, and either protocol over TLS.

use std::path::Path;

use anyhow::ensure;
use serde_json::json;
use test_support::app::DEADLINE;
use test_support::servers::Collector;
use test_support::{Http, ServiceCommand, ServiceProcess, TestServers, eventually};

use crate::common::tls_files;
use crate::tree::{CLIENT, CONSUMER, Spans};
use crate::{collector, observability, program};

const QUEUE: &str = "user_service.user_created";
const SENDER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn user_service(rabbitmq_url: &str, database_url: &str) -> ServiceCommand {
    ServiceCommand::new("user-service")
        .arg("serve")
        .env("RABBITMQ_URL", rabbitmq_url)
        .env("DATABASE_URL", database_url)
        .env("LOG_FORMAT", "json")
        .env("LISTEN", "127.0.0.1:0")
        .env("ADMIN_LISTEN", "127.0.0.1:0")
        .env("OTEL_BSP_SCHEDULE_DELAY", "500")
        .env("OTEL_SERVICE_NAME", "references")
}

#[test]
#[ignore = "needs the collector"]
fn a_created_user_is_followed_from_the_auth_service_by_otlp_over_http() {
    let (collector, _dir) = collector();
    let servers = TestServers::shared();
    let (database, vhost) = (servers.fresh_database(), servers.fresh_vhost());
    let service = user_service(vhost.url(), database.url())
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.http_url())
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        .start()
        .expect("user-service starts");
    let event = json!({
        "event_type": "UserCreated", "user_id": 7, "username": "canary-user",
        "email": "canary@example.com", "timestamp": 1_234_567_890.0,
    });
    let properties = json!({"headers": {"traceparent": SENDER}});
    let body = event.to_string();
    eventually(DEADLINE, "the queue to be bound", || {
        let bindings = vhost
            .management()
            .bindings(vhost.name(), "auth_events_exchange")?;
        ensure!(bindings.len() == 1, "{bindings:?}");
        Ok(())
    });
    let management = vhost.management();
    let published = management.publish(
        vhost.name(),
        "auth_events_exchange",
        "user.created",
        &properties,
        body.as_bytes(),
    );
    published.expect("the broker takes it");

    Spans::eventually(&collector, "the event's span", |spans| {
        let processed = spans.named(&format!("process {QUEUE}"), CONSUMER);
        ensure!(processed.len() == 1, "{processed:?}");
        let processed = processed[0];
        ensure!(processed.service == "references", "{processed:?}");
        ensure!(processed.parent_id == "b7ad6b7169203331", "{processed:?}");
        let key = processed.attribute("messaging.rabbitmq.destination.routing_key");
        ensure!(key == "user.created", "{processed:?}");
        let received = spans.named(&format!("receive {QUEUE}"), CLIENT);
        ensure!(received.len() == 1, "{received:?}");
        ensure!(received[0].links == ["b7ad6b7169203331"], "{received:?}");
        ensure!(
            processed.links.contains(&received[0].span_id),
            "{processed:?}"
        );
        spans.child(received[0], "INSERT auth_user_references", CLIENT)?;
        Ok(())
    });
    assert!(!collector.text().contains("canary"));
    assert!(!service.output().contains("canary"));
}

/// One span by a request of our own.
fn answers_one_request(service: &ServiceProcess) {
    let address = service.wait_for_address("public", DEADLINE);
    let url = format!("http://{}/openapi.json", address.expect("it listens"));
    let answer = Http::new().get(&url).expect("it answers");
    assert_eq!(answer.status, 200, "{}", answer.text);
}

#[test]
#[ignore = "needs the collector"]
fn both_protocols_go_over_tls_to_a_collector_whose_authority_is_trusted() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let tls = tls_files(dir.path());
    let file = |path: &Path| path.display().to_string();
    let identity = |protocol: &str| {
        let at = format!("yaml:receivers::otlp::protocols::{protocol}::tls");
        [
            format!("{at}::cert_file: {}", file(&tls.certificate)),
            format!("{at}::key_file: {}", file(&tls.key)),
        ]
    };
    let more = [identity("grpc"), identity("http")].concat();
    let state = dir.path().join("collector");
    let collector = Collector::start_with(&program(), &observability(), &state, &more);
    let collector = collector.expect("the collector starts");
    let https = |url: String| url.replace("http://127.0.0.1", "https://localhost");
    for (protocol, endpoint) in [
        ("grpc", https(collector.grpc_url())),
        ("http/protobuf", https(collector.http_url())),
    ] {
        let name = format!("by {protocol}");
        let service = user_service("amqp://127.0.0.1:9/", "postgres://nobody@127.0.0.1:9/none")
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
            .env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
            .env("OTEL_SERVICE_NAME", &name)
            .env("SSL_CERT_FILE", file(&tls.authority))
            .start()
            .expect("user-service starts");
        answers_one_request(&service);
        Spans::eventually(&collector, &name, |spans| {
            let found = spans.0.iter().any(|span| span.service == name);
            ensure!(found, "{}", service.last_lines(5));
            Ok(())
        });
    }
}
