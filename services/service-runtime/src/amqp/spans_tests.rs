use std::sync::Arc;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, SpanData, SpanExporter};
use parking_lot::Mutex;
use tracing_subscriber::layer::SubscriberExt;

use super::*;

const SENDER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const EXCHANGE: Destination<'_> = Destination {
    name: "events",
    template: Some("events:{replica}"),
};

#[derive(Debug, Clone, Default)]
struct Kept(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Kept {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().extend(batch);
        Ok(())
    }
}

fn delivery(traceparent: &str) -> Delivery {
    let mut headers = FieldTable::default();
    headers.insert(
        HEADER_TRACEPARENT.into(),
        AMQPValue::LongString(traceparent.into()),
    );
    let mut delivery = Delivery::mock(1, "".into(), "key".into(), false, Vec::new());
    delivery.properties = BasicProperties::default()
        .with_message_id("m-1".into())
        .with_headers(headers);
    delivery
}

fn attribute(span: &SpanData, key: &str) -> String {
    let found = span.attributes.iter().find(|it| it.key.as_str() == key);
    found.map(|it| it.value.to_string()).unwrap_or_default()
}

// The tracer is the process's: one test for all.
#[test]
fn only_what_its_sender_recorded_is_recorded_and_it_hangs_on_the_sender() {
    let kept = Kept::default();
    let provider = SdkTracerProvider::builder()
        .with_sampler(Sampler::ParentBased(Box::new(trace::OrLinked(
            Sampler::AlwaysOff,
        ))))
        .with_simple_exporter(kept.clone())
        .build();
    let sampled = delivery(SENDER);
    assert!(
        MessageSpan::process(EXCHANGE, &sampled, None).0.is_none(),
        "no tracer yet"
    );
    trace::install(provider.tracer("test"));

    let unsampled = delivery(&SENDER.replace("-01", "-00"));
    for delivery in [&unsampled, &delivery("nonsense")] {
        assert!(MessageSpan::process(EXCHANGE, delivery, None).0.is_none());
    }
    assert!(receive_span("queue", std::slice::from_ref(&unsampled)).is_none());
    let mut message = Message::to_queue("queue", "event", Vec::new());
    let nobody = MessageSpan::send(&mut message, &SpanContext::NONE, true);
    assert!(nobody.0.is_none(), "the sampler begins no traces");
    assert!(kept.0.lock().is_empty());

    let sender = delivery_trace(&sampled).span_context();
    let not_recorded = delivery_trace(&unsampled).span_context();
    let mut span = MessageSpan::process(EXCHANGE, &sampled, Some(&not_recorded));
    span.fail("malformed");
    drop(span);
    let spans = kept.0.lock().clone();
    let [span] = spans.as_slice() else {
        panic!("{spans:?}");
    };
    assert_eq!(span.name, "process events:{replica}");
    assert_eq!(span.span_kind, SpanKind::Consumer);
    assert_eq!(span.parent_span_id, sender.span_id());
    // To the sender; to nothing that is not recorded.
    assert_eq!(span.links.links.len(), 1);
    for (key, value) in [
        ("messaging.system", "rabbitmq"),
        ("messaging.destination.name", "events"),
        ("messaging.rabbitmq.destination.routing_key", "key"),
        ("messaging.message.id", "m-1"),
        ("error.type", "malformed"),
    ] {
        assert_eq!(attribute(span, key), value);
    }

    let subscriber = tracing_subscriber::registry()
        .with(tracing_opentelemetry::layer().with_tracer(provider.tracer("test")));
    tracing::subscriber::with_default(subscriber, || {
        drop(receive_span("queue", &[unsampled, sampled]).entered());
    });
    let batch = kept.0.lock().last().cloned().expect("a span");
    assert_eq!(
        batch.name, "receive queue",
        "recorded like what it links to"
    );
    assert_eq!(batch.links.links.len(), 1);
    assert_ne!(batch.span_context.trace_id(), sender.trace_id());

    let stands_for = [sender.clone(), not_recorded.clone()];
    drop(MessageSpan::send_for(
        &mut message,
        &not_recorded,
        true,
        stands_for,
    ));
    let merged = kept.0.lock().last().cloned().expect("a span");
    assert_eq!(
        merged.name, "send queue",
        "recorded like what it stands for"
    );
    assert_eq!(merged.links.links.len(), 1);
    let sent = message.trace.span_context();
    assert_eq!(sent.span_id(), merged.span_context.span_id());

    let producer = MessageSpan::send(&mut message, &sender, false);
    let sent = producer.context().expect("recorded");
    assert_eq!(message.trace, sent);
    assert_eq!(sent.span_context().trace_id(), sender.trace_id());
    assert_ne!(sent.span_context().span_id(), sender.span_id());
}
