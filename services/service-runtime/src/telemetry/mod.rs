//! Logs to stdout and, when an OTLP endpoint is configured, traces.

mod log;
mod otlp;
mod pipeline;

use std::time::Duration;

use anyhow::Context;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry::trace::noop::NoopTracer;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{Level, Subscriber};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::config::TelemetryArgs;
use crate::trace;

/// For the last spans, on top of the 8 s that the tasks have: a process must be gone after 10 s.
const FLUSH_WITHIN: Duration = Duration::from_secs(2);

/// Flushes traces when dropped: hold it until the end of `main`.
#[must_use = "traces are flushed when the guard is dropped"]
#[derive(Debug)]
pub struct TelemetryGuard {
    provider: Option<SdkTracerProvider>,
}

impl Drop for TelemetryGuard {
    fn drop(&mut self) {
        let Some(provider) = &self.provider else {
            return;
        };
        if let Err(error) = provider.shutdown_with_timeout(FLUSH_WITHIN) {
            eprintln!("the last traces were not sent: {error}");
        }
    }
}

/// Sets up logs and traces for the process.
///
/// Traces are exported when `OTEL_EXPORTER_OTLP_ENDPOINT` (or `…_TRACES_ENDPOINT`) is set; the other
/// standard `OTEL_*` variables apply. Without it ids that a caller sent are passed on and logged, and nothing is recorded.
///
/// # Errors
/// When a variable or the log filter is not understood; the text names it.
pub fn init(service_name: &'static str, args: &TelemetryArgs) -> anyhow::Result<TelemetryGuard> {
    let settings = otlp::Settings::from_env(|name| std::env::var(name).ok())?;
    let provider = settings
        .map(|settings| pipeline::provider(service_name, &settings))
        .transpose()?;
    if let Some(provider) = &provider {
        trace::install(provider.tracer(service_name));
    }
    tracing_subscriber::registry()
        .with(filter(&args.log)?)
        .with(filter_fn(log::may_be_logged))
        .with(log::layer(args.log_format))
        .with(span_layer(provider.as_ref(), service_name))
        .try_init()
        .context("telemetry is set up once")?;
    Ok(TelemetryGuard { provider })
}

fn filter(log: &str) -> anyhow::Result<EnvFilter> {
    EnvFilter::try_new(format!("sqlx::postgres::notice=warn,{log}"))
        .with_context(|| format!("LOG: `{log}` is not a log filter"))
}

/// Spans → OpenTelemetry. Without a provider the no-op tracer hands the caller's context through as it is.
fn span_layer<S>(
    provider: Option<&SdkTracerProvider>,
    service_name: &'static str,
) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    match provider {
        Some(provider) => {
            bare(tracing_opentelemetry::layer().with_tracer(provider.tracer(service_name)))
        }
        None => bare(tracing_opentelemetry::layer().with_tracer(NoopTracer::new())),
    }
}

/// Without what the layer adds to each span of its own accord: it costs more than the span. Log lines carry the ids of
/// their span and stay out of it, as do the spans that libraries make for debugging.
fn bare<S, T>(
    layer: tracing_opentelemetry::OpenTelemetryLayer<S, T>,
) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    T: opentelemetry::trace::Tracer + Send + Sync + 'static,
    T::Span: Send + Sync,
{
    layer
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_context_activation(false)
        .with_filter(filter_fn(|it| it.is_span() && *it.level() <= Level::INFO))
        .boxed()
}
