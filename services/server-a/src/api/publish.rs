//! Hands accepted SMS to the broker.

use service_runtime::amqp::{
    Connector, Message, MessageSpan, PublishError, Publisher, PublisherTask,
};
use service_runtime::trace;
use tokio_util::sync::CancellationToken;
use wire_contract::{SMS_OUTBOUND_QUEUE, SmsEnvelope, encode_json};

/// Property `type` of an accepted SMS.
const SMS_SUBMITTED: &str = "sms.submitted";

/// The publisher of `sms_outbound_queue` and the task that must run for it.
///
/// Server B declares the queue: to do so takes the right to read it, and server A must not read everybody's SMS. While
/// the queue is not there, the broker returns the message.
#[must_use]
pub fn publisher(connector: Connector, shutdown: CancellationToken) -> (Publisher, PublisherTask) {
    Publisher::to_queues(connector, "sms publisher", shutdown)
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
    // Whether this SMS is traced was decided with its request.
    let mut span = MessageSpan::send(&mut message, &trace::current(), false);
    let outcome = publisher.publish(message).await;
    if let Err(error) = outcome {
        span.fail(error.label());
    }
    outcome
}
