//! Hands accepted SMS to the broker.

use std::future::Future;

use lapin::Channel;
use service_runtime::amqp::{Connector, Message, PublishError, Publisher, declare_queue};
use service_runtime::trace::TraceContext;
use tokio_util::sync::CancellationToken;
use wire_contract::{SMS_OUTBOUND_QUEUE, SmsEnvelope, encode_json, specs};

/// Property `type` of an accepted SMS.
const SMS_SUBMITTED: &str = "sms.submitted";

/// The publisher of `sms_outbound_queue` and the task that must run for it.
pub fn publisher(
    connector: Connector,
    shutdown: CancellationToken,
) -> (
    Publisher,
    impl Future<Output = anyhow::Result<()>> + Send + 'static,
) {
    Publisher::new(
        connector,
        "sms publisher",
        |channel| Box::pin(declare(channel)),
        shutdown,
    )
}

/// The dead-letter queue comes first, so that the broker never has a letter without a box.
async fn declare(channel: Channel) -> anyhow::Result<()> {
    declare_queue(&channel, &specs::sms_outbound_dead()).await?;
    declare_queue(&channel, &specs::sms_outbound()).await
}

/// Publishes an SMS, with the caller's `user_id` in its envelope (requirement 3.3), to
/// `sms_outbound_queue` and waits for the broker's confirm.
///
/// # Errors
/// When the broker did not confirm it; after [`PublishError::Unconfirmed`] it may be queued all the
/// same.
pub async fn publish_sms_message(
    publisher: &Publisher,
    envelope: &SmsEnvelope,
) -> Result<(), PublishError> {
    let mut message = Message::to_queue(SMS_OUTBOUND_QUEUE, SMS_SUBMITTED, encode_json(envelope));
    message.message_id = envelope.message_id;
    message.trace = TraceContext::current();
    publisher.publish(message).await
}
