//! The replica's own queue of usage, on a connection that is made anew for ever.

use anyhow::Context;
use futures_util::StreamExt;
use lapin::Connection;
use lapin::message::Delivery;
use lapin::options::BasicAckOptions;
use service_runtime::amqp::{Connector, close, event_type, set_up, subscribe};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use wire_contract::{SmsUsage, decode_json, specs, usage_queue};

use super::{Usage, metrics};

/// Property `type` of a broadcast.
const SMS_USAGE: &str = "sms.usage";
/// Unacknowledged messages; bounds the memory of the client library.
const PREFETCH: u16 = 64;

/// Keeps [`Usage`] in step with server B. Readiness does not depend on it: without it server B still is exact, and nothing
/// is refused that it would admit.
#[derive(Debug)]
pub struct UsageSubscription {
    /// Makes the connection that consumes.
    pub connector: Connector,
    /// Name of this replica.
    pub instance: String,
    /// What it writes.
    pub usage: Usage,
}

impl UsageSubscription {
    /// Runs until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let session = |connection| self.session(connection, &shutdown);
        self.connector
            .supervise("sms usage", &self.usage.connection, &shutdown, session)
            .await;
        Ok(())
    }

    async fn session(
        &self,
        connection: Connection,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<()> {
        let queue = specs::usage(usage_queue(&self.instance, Uuid::now_v7()));
        let exchange = specs::sms_usage();
        let subscribed = subscribe(&connection, &exchange, &queue, PREFETCH);
        let (_channel, mut consumer) = set_up(subscribed).await?;
        self.usage.subscribed();
        loop {
            let delivery = tokio::select! {
                () = shutdown.cancelled() => break,
                delivery = consumer.next() => delivery.context("the broker cancelled the consumer")??,
            };
            let outcome = self.take(&delivery);
            metrics::broadcast(outcome);
            delivery
                .acker
                .ack(BasicAckOptions::default())
                .await
                .context("cannot acknowledge")?;
        }
        close(&connection).await;
        Ok(())
    }

    /// Absolute numbers: one that cannot be read is made good by the next.
    fn take(&self, delivery: &Delivery) -> &'static str {
        if event_type(delivery) != SMS_USAGE {
            return "unknown_event";
        }
        match decode_json::<SmsUsage>(SMS_USAGE, &delivery.data) {
            Ok(usage) if self.usage.take(&usage, OffsetDateTime::now_utc()) => "applied",
            Ok(_) => "other_day",
            Err(error) => {
                tracing::warn!(%error, "malformed usage ignored");
                "malformed"
            }
        }
    }
}
