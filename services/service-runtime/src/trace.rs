//! W3C trace context to and from text, for AMQP headers and the outbox row.

use std::collections::HashMap;

use opentelemetry::propagation::TextMapPropagator;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use wire_contract::{HEADER_TRACEPARENT, HEADER_TRACESTATE};

/// Bytes of a header that are passed on: what W3C Trace Context, 3.3.1.5, asks for of `tracestate`. More could burst the
/// frame of an AMQP message's headers.
const MAX_HEADER: usize = 512;

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

    /// That of the current span; empty without one.
    #[must_use]
    pub fn current() -> Self {
        let mut carrier = HashMap::new();
        TraceContextPropagator::new().inject_context(&Span::current().context(), &mut carrier);
        Self {
            traceparent: carrier.remove(HEADER_TRACEPARENT),
            tracestate: carrier
                .remove(HEADER_TRACESTATE)
                .filter(|state| !state.is_empty()),
        }
    }

    /// Makes `span` a child of this context, if there is one.
    pub fn set_parent_of(&self, span: &Span) {
        let Some(traceparent) = &self.traceparent else {
            return;
        };
        let mut carrier = HashMap::from([(HEADER_TRACEPARENT.to_owned(), traceparent.clone())]);
        if let Some(tracestate) = &self.tracestate {
            carrier.insert(HEADER_TRACESTATE.to_owned(), tracestate.clone());
        }
        // Fails only for a span that is filtered out, which has no parent to set.
        let _ = span.set_parent(TraceContextPropagator::new().extract(&carrier));
    }
}
