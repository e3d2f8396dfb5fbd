//! Logs to stdout and, when an OTLP endpoint is configured, traces.

use std::io::IsTerminal;

use anyhow::Context;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::filter::Directive;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::config::{LogFormat, TelemetryArgs};

/// Never, whatever the filter says: lapin logs returned messages with their bodies, and its frames; the phone number
/// library what it parses. What ends a connection our own supervisor logs, and an orderly end is no error.
const NEVER_LOGGED: [&str; 4] = [
    "lapin=warn",
    "lapin::returned_messages=off",
    "lapin::channels=off",
    "rlibphonenumber=off",
];

/// Flushes traces when dropped: hold it until the end of `main`.
#[must_use = "traces are flushed when the guard is dropped"]
#[derive(Debug)]
pub struct TelemetryGuard {
    provider: SdkTracerProvider,
}

impl Drop for TelemetryGuard {
    fn drop(&mut self) {
        if let Err(error) = self.provider.shutdown() {
            eprintln!("traces were not flushed: {error}");
        }
    }
}

/// Sets up logs and traces for the process.
///
/// Traces are exported when `OTEL_EXPORTER_OTLP_ENDPOINT` (or `…_TRACES_ENDPOINT`) is set; the other
/// standard `OTEL_*` variables apply. Without it spans still carry ids, so that logs can be joined.
pub fn init(service_name: &'static str, args: &TelemetryArgs) -> anyhow::Result<TelemetryGuard> {
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    let mut provider = SdkTracerProvider::builder()
        .with_resource(Resource::builder().with_service_name(service_name).build());
    if otlp_configured() {
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_tonic()
            .build()
            .context("OTEL_EXPORTER_OTLP_ENDPOINT does not name a usable endpoint")?;
        provider = provider.with_batch_exporter(exporter);
    }
    let provider = provider.build();

    let mut filter = EnvFilter::try_new(format!(
        "opentelemetry=warn,sqlx::postgres::notice=warn,{}",
        args.log
    ))
    .with_context(|| format!("LOG: `{}` is not a log filter", args.log))?;
    for directive in NEVER_LOGGED {
        let directive: Directive = directive.parse().context("built-in log directive")?;
        filter = filter.add_directive(directive);
    }
    let json = match args.log_format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !std::io::stdout().is_terminal(),
    };
    let format = if json {
        tracing_subscriber::fmt::layer()
            .json()
            .with_current_span(true)
            .with_span_list(false)
            .boxed()
    } else {
        tracing_subscriber::fmt::layer()
            .with_ansi(std::io::stdout().is_terminal())
            .boxed()
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(format)
        .with(tracing_opentelemetry::layer().with_tracer(provider.tracer(service_name)))
        .try_init()
        .context("telemetry is set up once")?;
    Ok(TelemetryGuard { provider })
}

fn otlp_configured() -> bool {
    [
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    ]
    .iter()
    .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}
