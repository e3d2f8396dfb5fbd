//! From a delivery of `sms_outbound_queue` to the SMS that it carries, or to the reason why it carries
//! none.

use lapin::message::Delivery;
use service_runtime::amqp::{Destination, MessageSpan, delivery_trace, event_type};
use service_runtime::trace::{self, TraceContext};
use time::OffsetDateTime;
use uuid::Uuid;
use wire_contract::{DecodeError, SMS_OUTBOUND_QUEUE, SmsEnvelope, decode_json};

use super::metrics;
use super::store::ReceivedSms;

const SMS_SUBMITTED: &str = "sms.submitted";
const QUEUE: Destination<'_> = Destination::named(SMS_OUTBOUND_QUEUE);
/// Longest trace header that is stored.
const MAX_TRACE_HEADER: usize = 512;

/// A delivery with the SMS that it carries.
pub struct Readable {
    pub delivery: Delivery,
    pub sms: ReceivedSms,
    /// Ends when the row is committed, or refused.
    pub span: MessageSpan,
}

/// A delivery that can never become a row.
pub struct Poison {
    pub delivery: Delivery,
    pub reason: DeadReason,
}

impl Readable {
    /// The database would not take it.
    pub fn refused(mut self, reason: DeadReason) -> Poison {
        self.span.fail(reason.label());
        Poison {
            delivery: self.delivery,
            reason,
        }
    }
}

/// Why; without contents, since it goes to the log.
#[derive(Debug, thiserror::Error)]
pub enum DeadReason {
    #[error("the property `type` is not {SMS_SUBMITTED}")]
    UnknownType,
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    #[error("refused by the database: SQLSTATE {sqlstate}")]
    Refused { sqlstate: String },
}

impl DeadReason {
    /// All of [`Self::label`].
    pub const LABELS: [&str; 3] = ["unknown_type", "malformed", "refused_by_database"];

    /// The metric's label.
    pub fn label(&self) -> &'static str {
        let [unknown_type, malformed, refused] = Self::LABELS;
        match self {
            Self::UnknownType => unknown_type,
            Self::Malformed(_) => malformed,
            Self::Refused { .. } => refused,
        }
    }
}

/// Reads each delivery; both results keep the order.
pub fn sort(deliveries: Vec<Delivery>) -> (Vec<Readable>, Vec<Poison>) {
    let now = OffsetDateTime::now_utc();
    let batch = trace::current();
    let (mut readable, mut poison) = (Vec::with_capacity(deliveries.len()), Vec::new());
    for delivery in deliveries {
        let mut span = MessageSpan::process(QUEUE, &delivery, Some(&batch));
        match read(&delivery) {
            Ok(mut sms) => {
                let age = now - sms.envelope.submitted_at;
                // The clocks of A and B may differ by more than the queue takes.
                metrics::QUEUE_AGE.observe(age.as_seconds_f64().max(0.0));
                // What is done with the row follows from this.
                sms.trace = span.context().unwrap_or(sms.trace);
                readable.push(Readable {
                    delivery,
                    sms,
                    span,
                });
            }
            Err(reason) => {
                span.fail(reason.label());
                poison.push(Poison { delivery, reason });
            }
        }
    }
    (readable, poison)
}

fn read(delivery: &Delivery) -> Result<ReceivedSms, DeadReason> {
    if event_type(delivery) != SMS_SUBMITTED {
        return Err(DeadReason::UnknownType);
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
