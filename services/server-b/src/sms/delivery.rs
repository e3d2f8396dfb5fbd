//! From a delivery of `sms_outbound_queue` to the SMS that it carries, or to the reason why it carries
//! none.

use lapin::message::Delivery;
use service_runtime::amqp::{delivery_trace, event_type};
use service_runtime::intake::DeadReason;
use service_runtime::trace::TraceContext;
use uuid::Uuid;
use wire_contract::{SmsEnvelope, decode_json};

use super::store::ReceivedSms;

const SMS_SUBMITTED: &str = "sms.submitted";
/// Longest trace header that is stored.
const MAX_TRACE_HEADER: usize = 512;

/// Reads a delivery. The AMQP property `type` tells what it carries.
///
/// # Errors
/// Why it can never become a row.
pub fn read(delivery: &Delivery) -> Result<ReceivedSms, DeadReason> {
    if event_type(delivery) != SMS_SUBMITTED {
        return Err(DeadReason::UnknownType {
            expected: SMS_SUBMITTED,
        });
    }
    let envelope: SmsEnvelope = decode_json(SMS_SUBMITTED, &delivery.data)?;
    let property = delivery.properties.message_id().as_ref();
    let named = property.and_then(|id| Uuid::try_parse(id.as_str()).ok());
    if named != Some(envelope.message_id) {
        tracing::debug!(message_id = %envelope.message_id, "the AMQP message_id is not the SMS's own, which counts");
    }
    let TraceContext {
        traceparent,
        tracestate,
    } = delivery_trace(delivery);
    Ok(ReceivedSms {
        envelope,
        trace: TraceContext {
            traceparent: traceparent.filter(|text| storable(text)),
            tracestate: tracestate.filter(|text| storable(text)),
        },
    })
}

/// A broken trace header must not cost the SMS.
fn storable(header: &str) -> bool {
    header.len() <= MAX_TRACE_HEADER && header.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

#[cfg(test)]
#[path = "delivery_tests.rs"]
mod tests;
