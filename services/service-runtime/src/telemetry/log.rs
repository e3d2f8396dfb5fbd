//! How log lines look: those within a span carry its `trace_id` and `span_id`, as OpenTelemetry names them in JSON logs.

use std::fmt;
use std::io::IsTerminal;

use opentelemetry::trace::{SpanContext, TraceContextExt};
use tracing::{Event, Level, Metadata, Subscriber, dispatcher};
use tracing_opentelemetry::get_otel_context;
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, MakeWriter, layer as lines};
use tracing_subscriber::registry::LookupSpan;

use crate::config::LogFormat;

/// Never logged, whatever the filter says: lapin logs returned messages with their bodies, the phone number library what it
/// parses. What ends a connection our own supervisor logs, and an orderly end is no error.
const NEVER: [&str; 3] = [
    "lapin::returned_messages",
    "lapin::channels",
    "rlibphonenumber",
];
/// From warnings on: it logs its frames.
const WARNINGS_ONLY: &str = "lapin";

/// Lines on stdout.
pub(super) fn layer<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let terminal = std::io::stdout().is_terminal();
    let json = match format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !terminal,
    };
    lines_to(std::io::stdout, json, terminal)
}

fn lines_to<S, W>(writer: W, json: bool, ansi: bool) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = lines().with_writer(writer);
    if json {
        let layer = lines.json().with_current_span(true).with_span_list(false);
        layer.map_event_format(WithIds::json).boxed()
    } else {
        lines
            .with_ansi(ansi)
            .map_event_format(WithIds::text)
            .boxed()
    }
}

/// For spans of these, too.
pub(super) fn may_be_logged(line: &Metadata<'_>) -> bool {
    let target = line.target();
    !NEVER.iter().any(|never| target.starts_with(never))
        && (!target.starts_with(WARNINGS_ONLY) || *line.level() <= Level::WARN)
}

/// A format, and where the ids go.
struct WithIds<F> {
    format: F,
    json: bool,
}

impl<F> WithIds<F> {
    fn json(format: F) -> Self {
        Self { format, json: true }
    }

    fn text(format: F) -> Self {
        Self {
            format,
            json: false,
        }
    }
}

impl<S, N, F> FormatEvent<S, N> for WithIds<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some(ids) = ids(context) else {
            return self.format.format_event(context, writer, event);
        };
        let (trace_id, span_id) = (ids.trace_id(), ids.span_id());
        if !self.json {
            write!(writer, "{trace_id} {span_id} ")?;
            return self.format.format_event(context, writer, event);
        }
        let mut line = String::new();
        self.format
            .format_event(context, Writer::new(&mut line), event)?;
        let rest = line.strip_prefix('{').unwrap_or(&line);
        write!(
            writer,
            r#"{{"trace_id":"{trace_id}","span_id":"{span_id}",{rest}"#
        )
    }
}

/// Of the line's span, if it belongs to a trace.
fn ids<S, N>(context: &FmtContext<'_, S, N>) -> Option<SpanContext>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    let span = context.parent_span()?;
    let found = dispatcher::get_default(|dispatch| get_otel_context(&span.id(), dispatch))?;
    let ids = found.span().span_context().clone();
    ids.is_valid().then_some(ids)
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
