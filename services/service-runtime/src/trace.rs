//! W3C trace context to and from text, for AMQP headers and the outbox row.

use std::sync::OnceLock;

use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{Link, SpanContext, SpanKind, TraceContextExt, TraceId};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    Sampler, SamplingDecision, SamplingResult, SdkTracer, ShouldSample,
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use wire_contract::{HEADER_TRACEPARENT, HEADER_TRACESTATE};

/// Bytes of a header that are passed on: what W3C Trace Context, 3.3.1.5, asks for of `tracestate`. More could burst the
/// frame of an AMQP message's headers.
const MAX_HEADER: usize = 512;

/// Set while traces are exported.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

pub(crate) fn install(tracer: SdkTracer) {
    // Fails for a second call, which `telemetry::init` refuses anyway.
    let _ = TRACER.set(tracer);
}

/// For spans about single messages, which are made by the hundred and wrap no code; `None` while no traces are exported.
/// All others are spans of `tracing`, so that log lines belong to them.
pub(crate) fn tracer() -> Option<&'static SdkTracer> {
    TRACER.get()
}

/// The trace and span that this code runs in; invalid outside of any.
#[must_use]
pub fn current() -> SpanContext {
    Span::current().context().span().span_context().clone()
}

/// Links a span to the one that this code runs in, if that is recorded.
pub fn link_to_current(span: &Span) {
    let current = current();
    if current.is_sampled() {
        span.add_link(current);
    }
}

/// Trace context as the two W3C headers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TraceContext {
    /// `traceparent`
    pub traceparent: Option<String>,
    /// `tracestate`
    pub tracestate: Option<String>,
}

impl TraceContext {
    /// What someone else sent. What is too long to be passed on is left out.
    #[must_use]
    pub fn received(traceparent: Option<String>, tracestate: Option<String>) -> Self {
        let bounded = |text: &String| text.len() <= MAX_HEADER;
        Self {
            traceparent: traceparent.filter(bounded),
            tracestate: tracestate.filter(bounded),
        }
    }

    /// That of a span; empty if the span belongs to no trace.
    #[must_use]
    pub fn of(span: &SpanContext) -> Self {
        let mut headers = Self::default();
        let context = Context::new().with_remote_span_context(span.clone());
        TraceContextPropagator::new().inject_context(&context, &mut headers);
        headers
    }

    /// That of the current span; empty without one.
    #[must_use]
    pub fn current() -> Self {
        Self::of(&current())
    }

    /// The span that it names; invalid if it names none.
    #[must_use]
    pub fn span_context(&self) -> SpanContext {
        let context = TraceContextPropagator::new().extract_with_context(&Context::new(), self);
        context.span().span_context().clone()
    }

    /// Whether the sender recorded its span. What was not recorded there is not recorded here either.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.traceparent.as_deref().is_some_and(is_sampled)
    }

    /// Makes `span` a child of this context, if there is one.
    pub fn set_parent_of(&self, span: &Span) {
        if self.traceparent.is_none() {
            return;
        }
        let parent = self.span_context();
        if parent.is_valid() {
            // Fails only for a span that is filtered out, which has no parent to set.
            let _ = span.set_parent(Context::new().with_remote_span_context(parent));
        }
    }
}

/// Records what begins a trace if something that it links to is recorded, and otherwise as often as the sampler says. Around a
/// batch there is a trace of its own: drawn apart from those of the messages, it would be missing for most of them.
#[derive(Debug, Clone)]
pub(crate) struct OrLinked(pub(crate) Sampler);

impl ShouldSample for OrLinked {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let mut result = self
            .0
            .should_sample(parent, trace_id, name, kind, attributes, links);
        if links.iter().any(|link| link.span_context.is_sampled()) {
            result.decision = SamplingDecision::RecordAndSample;
        }
        result
    }
}

/// Looks at the flags alone, so that most messages cost no more than this.
pub(crate) fn is_sampled(traceparent: &str) -> bool {
    let flags = traceparent.get(53..55);
    flags.is_some_and(|flags| u8::from_str_radix(flags, 16).is_ok_and(|flags| flags & 1 == 1))
}

impl Injector for TraceContext {
    fn set(&mut self, key: &str, value: String) {
        match key {
            HEADER_TRACEPARENT => self.traceparent = Some(value),
            HEADER_TRACESTATE => self.tracestate = Some(value).filter(|state| !state.is_empty()),
            _ => {}
        }
    }
}

impl Extractor for TraceContext {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            HEADER_TRACEPARENT => self.traceparent.as_deref(),
            HEADER_TRACESTATE => self.tracestate.as_deref(),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec![HEADER_TRACEPARENT, HEADER_TRACESTATE]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn context(traceparent: &str) -> TraceContext {
        TraceContext::received(Some(traceparent.to_owned()), Some("a=b".to_owned()))
    }

    #[test]
    fn headers_come_out_as_they_went_in() {
        let headers = context(SAMPLED);
        assert_eq!(TraceContext::of(&headers.span_context()), headers);
    }

    #[test]
    fn only_the_flag_of_a_well_formed_header_means_sampled() {
        assert!(context(SAMPLED).is_sampled());
        for not in [
            "",
            "00",
            "ä",
            &SAMPLED.replace("-01", "-00"),
            &SAMPLED.replace("-01", "-zz"),
        ] {
            assert!(!context(not).is_sampled(), "{not}");
        }
    }

    #[test]
    fn a_broken_header_names_no_span() {
        assert!(!context("00-nonsense-01").span_context().is_valid());
        assert_eq!(
            TraceContext::of(&SpanContext::NONE),
            TraceContext::default()
        );
    }
}
