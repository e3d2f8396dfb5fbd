//! The confirming publisher against a real broker.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use service_runtime::amqp::{Connector, Message, PublishError, Publisher};
use service_runtime::config::AmqpArgs;
use test_support::{TestServers, eventually_async};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_publisher_is_open_once_its_declarations_are_made_and_refuses_nothing_from_then_on() {
    let vhost = TestServers::shared().fresh_vhost();
    let args = AmqpArgs {
        rabbitmq_url: vhost.url().to_owned().into(),
        rabbitmq_ca_file: None,
    };
    let connector = Connector::new("test", &args).expect("a valid URL");
    let declared = Arc::new(Semaphore::new(0));
    let shutdown = CancellationToken::new();
    let (publisher, task) = Publisher::new(
        connector,
        "test",
        {
            let declared = Arc::clone(&declared);
            move |_| {
                let declared = Arc::clone(&declared);
                async move { Ok(declared.acquire_owned().await.map(drop)?) }.boxed()
            }
        },
        shutdown.clone(),
    );
    let task = tokio::spawn(task);
    let to_nowhere = || Message::to_fanout("amq.fanout", "test", Vec::new());

    eventually_async(DEADLINE, "the connection", || async {
        publisher.state().connected
    })
    .await;
    assert!(!publisher.is_open());
    let early = publisher.publish(to_nowhere()).await;
    assert_eq!(early, Err(PublishError::NotConnected));

    declared.add_permits(1);
    eventually_async(DEADLINE, "the publisher to be open", || async {
        publisher.is_open()
    })
    .await;
    assert_eq!(publisher.publish(to_nowhere()).await, Ok(()));

    shutdown.cancel();
    task.await.expect("no panic").expect("an orderly end");
}
