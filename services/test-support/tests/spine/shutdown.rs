//! SIGTERM: drain and exit 0 within 10 s.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use test_support::app::{App, Node, Verdict};

const LIMIT: Duration = Duration::from_secs(10);
const IDLE_CONNECTIONS: usize = 500;

fn ends_in_order(node: &Node) {
    let asked = Instant::now();
    node.process.terminate().expect("it can be signalled");
    let status = node
        .process
        .wait_exit(LIMIT)
        .unwrap_or_else(|error| panic!("{error:#}\n{}", node.process.last_lines(20)));
    assert!(
        status.success(),
        "{status}: {}",
        node.process.last_lines(20)
    );
    println!("{} ended after {:?}", node.process.name(), asked.elapsed());
}

/// Connections that have had an answer and are kept open, and some that never sent anything.
fn idle_connections(node: &Node) -> Vec<TcpStream> {
    let address = node.url.strip_prefix("http://").expect("plain HTTP");
    (0..IDLE_CONNECTIONS)
        .map(|number| {
            let mut stream = TcpStream::connect(address).expect("the service accepts");
            if number % 5 != 0 {
                stream
                    .write_all(b"GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n")
                    .expect("the request is sent");
                let mut answer = [0; 512];
                let length = stream.read(&mut answer).expect("the service answers");
                assert!(answer[..length].starts_with(b"HTTP/1.1 40"));
            }
            stream
        })
        .collect()
}

#[test]
fn each_process_drains_and_exits_0_within_10_s_with_500_idle_connections_too() {
    let app = App::start();
    let user = app.create_user("alice");
    app.everywhere(&user.key, Verdict::Accepted);
    let b = app.server_b.as_ref().expect("server B runs");
    for node in [&app.replicas[0], b] {
        let idle = idle_connections(node);
        ends_in_order(node);
        drop(idle);
    }
    // Without connections, and without server B.
    ends_in_order(&app.replicas[1]);
}

#[test]
fn a_process_that_never_reached_its_broker_ends_in_order_too() {
    let setup = test_support::app::Setup::on(
        "amqp://nobody:secret@127.0.0.1:9/",
        "postgres://nobody:secret@127.0.0.1:9/none",
    );
    let mut app = App::new(setup, None);
    app.start_a();
    app.start_b();
    for node in app.nodes() {
        ends_in_order(node);
        assert!(!node.process.output().contains("nobody:secret"));
    }
}
