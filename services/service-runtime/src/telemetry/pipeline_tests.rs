use opentelemetry::trace::{SpanContext, TraceContextExt, Tracer, TracerProvider as _};
use opentelemetry_sdk::error::OTelSdkError;
use opentelemetry_sdk::trace::Sampler;

use super::*;
use crate::trace::TraceContext;

/// Takes every second batch.
#[derive(Debug, Default)]
struct Flaky(Mutex<usize>);

impl SpanExporter for Flaky {
    async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
        let mut batches = self.0.lock();
        *batches += 1;
        if batches.is_multiple_of(2) {
            Ok(())
        } else {
            Err(OTelSdkError::InternalFailure("away".to_owned()))
        }
    }
}

fn provider(sampler: Sampler) -> SdkTracerProvider {
    let batches = BatchSpanProcessor::builder(Counted::new(Flaky::default())).build();
    SdkTracerProvider::builder()
        .with_sampler(sampler)
        .with_span_processor(CountEnded(batches))
        .build()
}

fn sent_by_another(flags: &str) -> Context {
    let header = format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}");
    let sender = TraceContext::received(Some(header), None).span_context();
    Context::new().with_remote_span_context(sender)
}

fn counts() -> [u64; 3] {
    ["ended", "exported", "failed"].map(|outcome| SPANS.with_label_values(&[outcome]).get())
}

// The counters are the process's: one test for all of them.
#[test]
fn sampled_spans_are_counted_as_ended_and_then_as_exported_or_failed() {
    let of_parent = provider(Sampler::ParentBased(Box::new(Sampler::AlwaysOff)));
    let tracer = of_parent.tracer("test");
    let nobody = Context::new().with_remote_span_context(SpanContext::NONE);
    drop(tracer.start_with_context("root", &nobody));
    drop(tracer.start_with_context("unsampled", &sent_by_another("00")));
    assert_eq!(counts(), [0, 0, 0]);

    drop(tracer.start_with_context("sampled", &sent_by_another("01")));
    drop(tracer.start_with_context("sampled", &sent_by_another("01")));
    assert!(of_parent.force_flush().is_err());
    assert_eq!(counts(), [2, 0, 2]);

    drop(tracer.start_with_context("sampled", &sent_by_another("01")));
    of_parent.force_flush().expect("the second batch is taken");
    assert_eq!(counts(), [3, 1, 2]);
}
