//! Spans about messages, by OpenTelemetry's semantic conventions for messaging (1.41) and RabbitMQ.
//!
//! A message is worth a span only if its sender recorded one: tens of thousands a second are not, and for those nothing is
//! looked at but one flag.

use lapin::message::Delivery;
use opentelemetry::trace::{
    Link, Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, Tracer,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use wire_contract::HEADER_TRACEPARENT;

use super::headers::{delivery_trace, header_str};
use super::publisher::Message;
use crate::trace::{self, TraceContext};

/// Links of one span at most: the SDK's own limit.
const MAX_LINKS: usize = 128;

/// What a message goes through.
#[derive(Debug, Clone, Copy)]
pub struct Destination<'a> {
    /// Exchange or queue.
    pub name: &'a str,
    /// Stands for the name of a queue that is made anew on each connection.
    pub template: Option<&'a str>,
}

impl<'a> Destination<'a> {
    /// An exchange, or a queue by way of the default exchange.
    #[must_use]
    pub const fn named(name: &'a str) -> Self {
        Self {
            name,
            template: None,
        }
    }

    fn attributes(&self, operation: &'static str, routing_key: &str) -> Vec<KeyValue> {
        let mut attributes = vec![
            KeyValue::new("messaging.system", "rabbitmq"),
            KeyValue::new("messaging.operation.name", operation),
            KeyValue::new("messaging.operation.type", operation),
            KeyValue::new("messaging.destination.name", self.name.to_owned()),
        ];
        if let Some(template) = self.template {
            attributes.push(KeyValue::new(
                "messaging.destination.template",
                template.to_owned(),
            ));
            attributes.push(KeyValue::new("messaging.destination.temporary", true));
        }
        if !routing_key.is_empty() {
            let key = "messaging.rabbitmq.destination.routing_key";
            attributes.push(KeyValue::new(key, routing_key.to_owned()));
        }
        attributes
    }

    fn span_name(&self, operation: &'static str) -> String {
        format!("{operation} {}", self.template.unwrap_or(self.name))
    }
}

/// The span of one message, recorded when it is dropped; empty where there is nothing to record.
#[derive(Debug, Default)]
pub struct MessageSpan(Option<Span>);

impl MessageSpan {
    /// From the hand-over to the confirm; its context goes with the message. `parent` is who sends: a message that nobody's
    /// trace leads to begins one if `may_begin`, as often as the sampler says.
    #[must_use]
    pub fn send(message: &mut Message, parent: &SpanContext, may_begin: bool) -> Self {
        Self::send_for(message, parent, may_begin, [])
    }

    /// The same of a message that stands for what was done in `others`, too: if one of them is recorded, so is this span,
    /// linked to it, in a trace of its own unless the parent's is recorded.
    #[must_use]
    pub fn send_for(
        message: &mut Message,
        parent: &SpanContext,
        may_begin: bool,
        others: impl IntoIterator<Item = SpanContext>,
    ) -> Self {
        message.trace = TraceContext::of(parent);
        let links = others.into_iter().filter(SpanContext::is_sampled);
        let links: Vec<_> = links.take(MAX_LINKS).map(Link::with_context).collect();
        let is_wanted = parent.is_sampled() || !links.is_empty();
        if !is_wanted && (parent.is_valid() || !may_begin) {
            return Self(None);
        }
        let Some(tracer) = trace::tracer() else {
            return Self(None);
        };
        let builder = SpanBuilder::from_name("send")
            .with_kind(SpanKind::Producer)
            .with_links(links);
        // A parent that is none, or is not recorded, would make this span one that is not.
        let context = if parent.is_sampled() {
            Context::new().with_remote_span_context(parent.clone())
        } else {
            Context::new()
        };
        let mut span = tracer.build_with_context(builder, &context);
        // Most that may begin a trace do not, and cost no attributes.
        if !span.is_recording() {
            return Self(None);
        }
        let (to_queue, key) = (message.exchange.is_empty(), message.routing_key.as_str());
        let destination = Destination::named(if to_queue { key } else { message.exchange });
        span.update_name(destination.span_name("send"));
        span.set_attributes(destination.attributes("send", key));
        span.set_attribute(message_id(message.message_id.to_string()));
        message.trace = TraceContext::of(span.span_context());
        Self(Some(span))
    }

    /// What is done with a delivery: a child of the span that sent it, since each is looked at alone, with a link to that span
    /// and one to `batch`, the span around all that came together.
    #[must_use]
    pub fn process(
        destination: Destination<'_>,
        delivery: &Delivery,
        batch: Option<&SpanContext>,
    ) -> Self {
        if !is_sampled(delivery) {
            return Self(None);
        }
        let Some(tracer) = trace::tracer() else {
            return Self(None);
        };
        let parent = delivery_trace(delivery).span_context();
        let mut attributes = destination.attributes("process", delivery.routing_key.as_str());
        if let Some(id) = delivery.properties.message_id() {
            attributes.push(message_id(id.to_string()));
        }
        let links = [Some(&parent), batch].into_iter().flatten();
        // To what is not recorded no link would lead anywhere.
        let links = links.filter(|it| it.is_sampled());
        let builder = SpanBuilder::from_name(destination.span_name("process"))
            .with_kind(SpanKind::Consumer)
            .with_attributes(attributes)
            .with_links(links.cloned().map(Link::with_context).collect());
        let context = Context::new().with_remote_span_context(parent);
        let span = tracer.build_with_context(builder, &context);
        Self(span.is_recording().then_some(span))
    }

    /// Says that it failed, and why: a word out of few.
    pub fn fail(&mut self, error_type: &'static str) {
        if let Some(span) = &mut self.0 {
            span.set_attribute(KeyValue::new("error.type", error_type));
            span.set_status(Status::error(""));
        }
    }

    /// What follows from the message, if the span is recorded.
    #[must_use]
    pub fn context(&self) -> Option<TraceContext> {
        Some(TraceContext::of(self.0.as_ref()?.span_context()))
    }
}

/// Around all that is done with a batch of deliveries, with links to the spans that sent them: of no trace but its own, since
/// the messages are of many. Disabled when none of them was recorded.
#[must_use]
pub fn receive_span(queue: &str, deliveries: &[Delivery]) -> tracing::Span {
    if trace::tracer().is_none() || !deliveries.iter().any(is_sampled) {
        return tracing::Span::none();
    }
    let span = batch_span("receive", queue, deliveries.len());
    let senders = deliveries.iter().filter(|it| is_sampled(it));
    let senders = senders.map(|it| delivery_trace(it).span_context());
    link(&span, senders)
}

/// Around the publishing of a batch, likewise.
#[must_use]
pub fn send_span(destination: &str, messages: &[MessageSpan]) -> tracing::Span {
    if messages.iter().all(|it| it.0.is_none()) {
        return tracing::Span::none();
    }
    let span = batch_span("send", destination, messages.len());
    let messages = messages.iter().filter_map(|it| it.0.as_ref());
    link(&span, messages.map(|it| it.span_context().clone()))
}

/// Of a trace of its own, which is recorded because something that it links to is: see [`trace::OrLinked`].
fn batch_span(operation: &'static str, destination: &str, count: usize) -> tracing::Span {
    tracing::error_span!(
        parent: None,
        "batch",
        otel.name = format_args!("{operation} {destination}"),
        otel.kind = "client",
        messaging.system = "rabbitmq",
        messaging.operation.name = operation,
        messaging.operation.type = operation,
        messaging.destination.name = destination,
        // An unsigned number would go out as a text.
        messaging.batch.message_count = i64::try_from(count).unwrap_or(i64::MAX),
    )
}

fn link(span: &tracing::Span, to: impl Iterator<Item = SpanContext>) -> tracing::Span {
    to.take(MAX_LINKS).for_each(|it| span.add_link(it));
    span.clone()
}

fn message_id(id: String) -> KeyValue {
    KeyValue::new("messaging.message.id", id)
}

fn is_sampled(delivery: &Delivery) -> bool {
    header_str(delivery, HEADER_TRACEPARENT).is_some_and(trace::is_sampled)
}

#[cfg(test)]
#[path = "spans_tests.rs"]
mod tests;
