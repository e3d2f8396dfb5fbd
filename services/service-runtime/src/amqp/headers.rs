//! Reads what messages carry besides their body.

use lapin::message::Delivery;
use lapin::types::AMQPValue;
use wire_contract::{HEADER_TRACEPARENT, HEADER_TRACESTATE};

use crate::trace::TraceContext;

/// A header's text, if it is one.
#[must_use]
pub fn header_text(delivery: &Delivery, name: &str) -> Option<String> {
    match delivery.properties.headers().as_ref()?.inner().get(name)? {
        AMQPValue::LongString(text) => Some(text.to_string()),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    }
}

/// The same without a copy, if it is UTF-8.
pub(super) fn header_str<'a>(delivery: &'a Delivery, name: &str) -> Option<&'a str> {
    match delivery.properties.headers().as_ref()?.inner().get(name)? {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        AMQPValue::ShortString(text) => Some(text.as_str()),
        _ => None,
    }
}

/// A header's number, if it is one.
#[must_use]
pub fn header_number(delivery: &Delivery, name: &str) -> Option<i64> {
    match delivery.properties.headers().as_ref()?.inner().get(name)? {
        AMQPValue::LongLongInt(number) => Some(*number),
        _ => None,
    }
}

/// Whether a header is there and true.
#[must_use]
pub fn header_flag(delivery: &Delivery, name: &str) -> bool {
    let headers = delivery.properties.headers().as_ref();
    let value = headers.and_then(|headers| headers.inner().get(name));
    value == Some(&AMQPValue::Boolean(true))
}

/// The property `type`, empty when missing.
#[must_use]
pub fn event_type(delivery: &Delivery) -> &str {
    delivery
        .properties
        .kind()
        .as_ref()
        .map_or("", |kind| kind.as_str())
}

/// The trace context that the message carries; see [`TraceContext::received`].
#[must_use]
pub fn delivery_trace(delivery: &Delivery) -> TraceContext {
    TraceContext::received(
        header_text(delivery, HEADER_TRACEPARENT),
        header_text(delivery, HEADER_TRACESTATE),
    )
}
