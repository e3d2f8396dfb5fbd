//! With the collector away, sends go on, memory stays bounded, and a process ends in time.

use std::net::{Ipv4Addr, TcpListener};
use std::thread;
use std::time::Duration;

use anyhow::ensure;
use test_support::app::{App, DEADLINE, Node, Setup, TestUser, Verdict};
use test_support::servers::free_port;
use test_support::{OtlpSink, eventually};

/// Spans that may wait; the queue of the SDK is as long as this variable says.
const QUEUE: u32 = 256;
/// One batch is out of the queue while it is sent.
const BATCH: u32 = 64;
const SENDERS: u32 = 8;
/// Of each sender, before anything is measured.
const WARM: u32 = 250;
/// Of each sender, while memory is measured.
const MEASURED: u32 = 2000;
/// Half of what keeping the spans of [`MEASURED`] takes, 16 MB; of a bounded queue next to nothing is seen.
const MEMORY_KB: u64 = 8 * 1024;

fn app(endpoint: &str, protocol: &str) -> (App, TestUser) {
    let (setup, guards) = Setup::shared();
    let setup = setup
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        .env("OTEL_BSP_MAX_QUEUE_SIZE", &QUEUE.to_string())
        .env("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", &BATCH.to_string())
        .env("OTEL_BSP_SCHEDULE_DELAY", "500");
    let mut app = App::new(setup, Some(guards));
    app.start_all(1);
    let user = app.create_user("alice");
    app.everywhere(&user.key, Verdict::Accepted);
    (app, user)
}

/// Gives how many spans that makes: one of each request, and one of its publishing.
fn send_all(app: &App, user: &TestUser, sends_of_each: u32) -> f64 {
    thread::scope(|scope| {
        for _ in 0..SENDERS {
            scope.spawn(|| {
                for _ in 0..sends_of_each {
                    let sent = app.send(&app.replicas[0], &user.key).expect("A answers");
                    assert_eq!(sent.status, 202, "{}", sent.text);
                }
            });
        }
    });
    f64::from(2 * SENDERS * sends_of_each)
}

fn spans(app: &App, outcome: &str) -> f64 {
    app.replicas[0].metric(app.http(), "identity_trace_spans_total", outcome)
}

/// Resident memory.
fn resident_kb(node: &Node) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.process.id()));
    let status = status.expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let size = line.and_then(|rest| rest.trim().strip_suffix(" kB"));
    size.and_then(|size| size.parse().ok())
        .expect("VmRSS in kB")
}

fn ends_in_order(app: &App) {
    for node in app.nodes() {
        node.process.terminate().expect("it can be signalled");
        let status = node.process.wait_exit(Duration::from_secs(10));
        let status = status.unwrap_or_else(|error| panic!("{error:#}"));
        assert!(status.success(), "{}", node.process.last_lines(20));
    }
}

fn warns_once(app: &App) {
    for node in app.nodes() {
        let output = node.process.output();
        let warnings = output.matches("traces are not taken").count();
        assert!(
            warnings <= 1,
            "{warnings} warnings of {}",
            node.process.name()
        );
    }
}

/// After the collector's return no more comes than the queue holds: all else was dropped when it ended.
#[test]
fn spans_for_a_collector_that_refuses_wait_in_a_bounded_queue_and_go_out_when_it_is_back() {
    let port = free_port(None).expect("a port");
    let (app, user) = app(&format!("http://127.0.0.1:{port}"), "http/protobuf");
    // Warm: what a process takes once is not counted.
    let warm = send_all(&app, &user, WARM);
    let before = resident_kb(&app.replicas[0]);
    let measured = send_all(&app, &user, MEASURED);
    let grown = resident_kb(&app.replicas[0]).saturating_sub(before);
    println!("{grown} kB more for {measured} spans");
    assert!(grown < MEMORY_KB, "{grown} kB");

    assert!(spans(&app, "ended") >= warm + measured);
    eventually(DEADLINE, "failed batches", || {
        ensure!(spans(&app, "failed") > 0.0, "none");
        Ok(())
    });
    assert!(spans(&app, "exported") < 0.5);
    let sink = OtlpSink::start(port).expect("the port is still free");
    let exported = eventually(DEADLINE, "what waited", || {
        let exported = spans(&app, "exported");
        ensure!(exported > 0.0, "none");
        Ok(exported)
    });
    assert!(
        exported <= f64::from(QUEUE + BATCH),
        "{exported} spans waited"
    );
    assert!(sink.has("send sms_outbound_queue"));
    warns_once(&app);
    ends_in_order(&app);
}

#[test]
fn a_collector_that_takes_connections_and_says_nothing_holds_up_neither_sends_nor_the_end() {
    for protocol in ["grpc", "http/protobuf"] {
        let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = silent.local_addr().expect("its address").port();
        // Connections wait in the listener's queue, and nobody takes them out.
        let (app, user) = app(&format!("http://127.0.0.1:{port}"), protocol);
        let sent = send_all(&app, &user, WARM);
        assert!(spans(&app, "ended") >= sent);
        assert!(spans(&app, "exported") < 0.5);
        warns_once(&app);
        ends_in_order(&app);
        drop(silent);
    }
}
