use std::io;
use std::sync::{Arc, LazyLock};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::SdkTracerProvider;
use parking_lot::Mutex;
use serde_json::Value;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry;

use super::*;

#[derive(Debug, Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// As JSON, and for people. The process's own, since only of that lines find the ids of their span.
struct Logs {
    json: Written,
    text: Written,
}

static LOGS: LazyLock<Logs> = LazyLock::new(|| {
    let logs = Logs {
        json: Written::default(),
        text: Written::default(),
    };
    let (json, text) = (logs.json.clone(), logs.text.clone());
    let provider = SdkTracerProvider::builder().build();
    let subscriber = registry()
        .with(filter_fn(may_be_logged))
        .with(lines_to(move || json.clone(), true, false))
        .with(lines_to(move || text.clone(), false, false))
        .with(tracing_opentelemetry::layer().with_tracer(provider.tracer("test")));
    tracing::subscriber::set_global_default(subscriber).expect("only here");
    logs
});

impl Written {
    /// The lines that have this mark: other tests write, too.
    fn lines(&self, mark: &str) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().clone()).expect("text");
        let lines = text.lines().filter(|line| line.contains(mark));
        lines.map(str::to_owned).collect()
    }
}

/// A line outside of any span, and one in a span, with what JSON must escape.
fn outside_and_inside(mark: &str) -> SpanContext {
    tracing::info!(mark, "outside");
    let span = tracing::info_span!("request");
    span.in_scope(|| tracing::info!(mark, text = "\"{\n", "inside"));
    span.context().span().span_context().clone()
}

#[test]
fn each_line_is_json_and_those_in_a_span_name_its_trace_and_itself() {
    let logs = &*LOGS;
    let ids = outside_and_inside("in-json");
    let lines = logs.json.lines("in-json");
    let lines: Vec<Value> = lines
        .iter()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let [outside, inside] = lines.as_slice() else {
        panic!("{lines:?}");
    };
    assert_eq!(outside["fields"]["message"], "outside");
    assert!(outside.get("trace_id").is_none() && outside.get("span_id").is_none());
    assert_eq!(inside["fields"]["text"], "\"{\n");
    assert_eq!(inside["trace_id"], ids.trace_id().to_string());
    assert_eq!(inside["span_id"], ids.span_id().to_string());
}

#[test]
fn lines_for_people_begin_with_both_ids_where_there_are_some() {
    let logs = &*LOGS;
    let ids = outside_and_inside("for-people");
    let lines = logs.text.lines("for-people");
    assert_eq!(lines.len(), 2, "a break in a value is escaped: {lines:?}");
    let begin = format!("{} {} ", ids.trace_id(), ids.span_id());
    assert!(!lines[0].contains(&begin), "{lines:?}");
    assert!(lines[1].starts_with(&begin), "{lines:?}");
}

#[test]
fn what_may_hold_messages_or_numbers_is_not_logged_whatever_the_filter_says() {
    let logs = &*LOGS;
    tracing::trace!(target: "lapin::frames", "canary");
    tracing::error!(target: "lapin::returned_messages", "canary");
    tracing::error!(target: "rlibphonenumber::parser", "canary");
    tracing::warn!(target: "lapin::connection", "no canary");
    let lines = logs.json.lines("canary");
    let [line] = lines.as_slice() else {
        panic!("{lines:?}");
    };
    assert!(line.contains("no canary"), "{line}");
}
