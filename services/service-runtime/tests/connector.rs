//! What a broker that cannot be reached costs.

use std::io::Read;
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use service_runtime::amqp::Connector;
use service_runtime::config::AmqpArgs;
use test_support::eventually_async;
use tokio::runtime::Handle;

const DEADLINE: Duration = Duration::from_secs(10);
const TRIES: usize = 20;

fn connector(port: u16) -> Connector {
    let args = AmqpArgs {
        rabbitmq_url: format!("amqp://127.0.0.1:{port}/%2f").into(),
        rabbitmq_ca_file: None,
    };
    Connector::new("test", &args).expect("a valid URL")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_try_that_does_not_reach_the_broker_leaves_nothing_behind() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    drop(listener);
    let connector = connector(port);
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let before = tasks();

    for _ in 0..TRIES {
        let error = connector.connect("test").await.expect_err("no broker");
        let text = format!("{error:#}");
        assert!(
            text.contains(&format!("cannot connect to RabbitMQ at 127.0.0.1:{port}")),
            "{text}"
        );
    }

    eventually_async(DEADLINE, "no task more than before", || async {
        anyhow::ensure!(
            tasks() <= before,
            "{} instead of {before} tasks after {TRIES} tries",
            tasks()
        );
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_takes_a_connection_and_never_answers_is_left() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let silent = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut greeting = Vec::new();
        // Ends when the client closes.
        stream.read_to_end(&mut greeting).map(|_| greeting)
    });

    let error = connector(port)
        .connect("test")
        .await
        .expect_err("no answer");

    let text = format!("{error:#}");
    assert!(
        text.contains("took the connection and does not answer"),
        "{text}"
    );
    let greeting = tokio::task::spawn_blocking(|| silent.join())
        .await
        .expect("joined")
        .expect("no panic")
        .expect("closed in order");
    assert_eq!(greeting, b"AMQP\0\0\x09\x01");
}
