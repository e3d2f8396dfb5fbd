//! Ended spans → bounded queue → batches → collector, and the counters that tell of it.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::tonic_types::transport::ClientTlsConfig;
use opentelemetry_otlp::{SpanExporter as OtlpExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::resource::{EnvResourceDetector, TelemetryResourceDetector};
use opentelemetry_sdk::trace::{
    BatchSpanProcessor, SdkTracerProvider, Span, SpanData, SpanExporter, SpanProcessor,
};
use parking_lot::Mutex;
use prometheus::{IntCounterVec, register_int_counter_vec};
use uuid::Uuid;

use super::otlp::{Protocol, Settings};

/// How often a collector that is away is complained of.
const WARN_EVERY: Duration = Duration::from_mins(10);

/// `identity_trace_spans_total{outcome}`: what is ended and neither exported nor failed waits in the queue, or did not find
/// room in it.
static SPANS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "identity_trace_spans_total",
        "Sampled spans that ended, those that the collector took, and those that it did not take",
        &["outcome"]
    )
    .expect("the name is valid and registered once")
});

/// Makes the tracers; needs a Tokio runtime, on which gRPC runs. A thread of its own collects and sends batches, so a collector
/// that is slow or away holds nobody up.
pub(super) fn provider(
    service_name: &'static str,
    settings: &Settings,
) -> Result<SdkTracerProvider> {
    let exporter = exporter(settings)
        .with_context(|| format!("{} is not usable", settings.endpoint_variable))?;
    for outcome in ["ended", "exported", "failed"] {
        SPANS.with_label_values(&[outcome]);
    }
    let batches = BatchSpanProcessor::builder(Counted::new(exporter)).build();
    Ok(SdkTracerProvider::builder()
        .with_resource(resource(service_name))
        .with_sampler(settings.sampler.clone())
        .with_span_processor(CountEnded(batches))
        .build())
}

fn exporter(settings: &Settings) -> Result<OtlpExporter> {
    let builder = OtlpExporter::builder();
    let built = match settings.protocol {
        Protocol::Http => builder
            .with_http()
            .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
            .build(),
        Protocol::Grpc if settings.tls => builder
            .with_tonic()
            .with_tls_config(ClientTlsConfig::new().with_enabled_roots())
            .build(),
        Protocol::Grpc => builder.with_tonic().build(),
    };
    Ok(built?)
}

/// What `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` say wins.
fn resource(service_name: &'static str) -> Resource {
    let resource = Resource::builder_empty()
        .with_attributes([
            KeyValue::new("service.name", service_name),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", Uuid::now_v7().to_string()),
        ])
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_detector(Box::new(EnvResourceDetector::new()));
    match std::env::var("OTEL_SERVICE_NAME") {
        Ok(name) if !name.is_empty() => resource.with_service_name(name),
        _ => resource,
    }
    .build()
}

/// Counts what ends; the queue behind it drops what finds no room.
#[derive(Debug)]
struct CountEnded(BatchSpanProcessor);

impl SpanProcessor for CountEnded {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.0.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        SPANS.with_label_values(&["ended"]).inc();
        self.0.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.0.set_resource(resource);
    }
}

/// Counts what becomes of batches, and warns of failures now and then.
#[derive(Debug)]
struct Counted<E> {
    exporter: E,
    warned: Mutex<Option<Instant>>,
}

impl<E> Counted<E> {
    fn new(exporter: E) -> Self {
        Self {
            exporter,
            warned: Mutex::new(None),
        }
    }

    fn warn(&self, error: &impl std::fmt::Display) {
        let mut warned = self.warned.lock();
        if warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
            *warned = Some(Instant::now());
            tracing::warn!(%error, "traces are not taken by the collector; they are dropped, and the next warning is 10 minutes away");
        }
    }
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len() as u64;
        let result = self.exporter.export(batch).await;
        let outcome = match &result {
            Ok(()) => "exported",
            Err(error) => {
                self.warn(error);
                "failed"
            }
        };
        SPANS.with_label_values(&[outcome]).inc_by(count);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
#[path = "pipeline_tests.rs"]
mod tests;
