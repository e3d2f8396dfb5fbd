//! The OpenTelemetry Collector with this project's configuration, writing what it takes to a file.

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::state_dir::StateDir;
use crate::children::{self, Launch, Process};
use crate::eventually::try_eventually;

const START_DEADLINE: Duration = Duration::from_secs(30);

/// A running collector, killed when dropped.
#[derive(Debug)]
pub struct Collector {
    process: Process,
    dir: StateDir,
    grpc: u16,
    http: u16,
}

impl Collector {
    /// Starts `program` with the configurations below `observability`, and all that it writes in `dir`.
    pub fn start(program: &Path, observability: &Path, dir: &Path) -> Result<Self> {
        Self::start_with(program, observability, dir, &[])
    }

    /// The same with more of the collector's `--config`, laid over the others.
    pub fn start_with(
        program: &Path,
        observability: &Path,
        dir: &Path,
        more: &[String],
    ) -> Result<Self> {
        let dir = StateDir::create(dir)?;
        children::kill_leftovers(dir.path())?;
        let (grpc, http) = (dir.port("grpc")?, dir.port("http")?);
        // Of an earlier run; the collector would go on with it.
        let _ = fs::remove_file(dir.join("traces.jsonl"));
        let mut command = children::command(program, dir.path(), Launch::default());
        for config in ["otel-collector.yaml", "otel-collector-file.yaml"] {
            command.arg("--config").arg(observability.join(config));
        }
        command.args(more.iter().flat_map(|config| ["--config", config]));
        let listen = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)).to_string();
        let log = super::append(&dir.join("console.log"))?;
        command
            .env("OTLP_GRPC_LISTEN", listen(grpc))
            .env("OTLP_HTTP_LISTEN", listen(http))
            .env("TRACES_FILE", dir.join("traces.jsonl"))
            .stdout(log.try_clone()?)
            .stderr(log);
        let collector = Self {
            process: children::spawn(command)?,
            dir,
            grpc,
            http,
        };
        collector.wait_until_ready()?;
        Ok(collector)
    }

    fn wait_until_ready(&self) -> Result<()> {
        let console = self.dir.join("console.log");
        try_eventually(START_DEADLINE, "the collector to listen", || {
            let ended = self.process.exit_status()?;
            ensure!(ended.is_none(), "it ended: {ended:?}");
            for port in [self.grpc, self.http] {
                TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
            }
            Ok(())
        })
        .with_context(|| super::tail(&console))
    }

    /// Where it takes OTLP over gRPC.
    #[must_use]
    pub fn grpc_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.grpc)
    }

    /// Where it takes OTLP over HTTP.
    #[must_use]
    pub fn http_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http)
    }

    /// The file that it writes.
    #[must_use]
    pub fn traces_file(&self) -> PathBuf {
        self.dir.join("traces.jsonl")
    }

    /// All that it has written; the file is there from the first traces on.
    ///
    /// # Panics
    /// When the file cannot be read.
    #[must_use]
    pub fn text(&self) -> String {
        let file = self.traces_file();
        match fs::read_to_string(&file) {
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            read => read.unwrap_or_else(|error| panic!("{}: {error}", file.display())),
        }
    }

    /// How it ended, or `None` while it runs.
    pub fn unexpected_end(&self) -> Result<Option<std::process::ExitStatus>> {
        self.process.exit_status()
    }

    /// All spans that it has written.
    #[must_use]
    pub fn spans(&self) -> Vec<ExportedSpan> {
        // The last line may be half written.
        let lines = self.text();
        let lines = lines
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        lines.flat_map(|line: Value| spans_of(&line)).collect()
    }
}

/// A span as a backend gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportedSpan {
    /// `service.name`
    pub service: String,
    /// Name.
    pub name: String,
    /// Hex.
    pub trace_id: String,
    /// Hex.
    pub span_id: String,
    /// Hex; empty for a root.
    pub parent_id: String,
    /// 1 internal, 2 server, 3 client, 4 producer, 5 consumer.
    pub kind: u64,
    /// Ids of the spans that it links to.
    pub links: Vec<String>,
    /// Attributes and their values, those of the resource too.
    pub attributes: Vec<(String, Value)>,
}

impl ExportedSpan {
    /// An attribute's value, a number only if it was sent as one; null without one.
    #[must_use]
    pub fn attribute(&self, key: &str) -> &Value {
        let found = self.attributes.iter().find(|(name, _)| name == key);
        found.map_or(&Value::Null, |(_, value)| value)
    }
}

fn spans_of(line: &Value) -> Vec<ExportedSpan> {
    let mut spans = Vec::new();
    for resource_spans in list(&line["resourceSpans"]) {
        let resource = attributes(&resource_spans["resource"]["attributes"]);
        for scope in list(&resource_spans["scopeSpans"]) {
            let of_scope = list(&scope["spans"]).iter();
            spans.extend(of_scope.map(|span| exported(span, &resource)));
        }
    }
    spans
}

fn exported(span: &Value, resource: &[(String, Value)]) -> ExportedSpan {
    let text = |key: &str| span[key].as_str().unwrap_or_default().to_owned();
    let mut all = attributes(&span["attributes"]);
    all.extend_from_slice(resource);
    let service = all.iter().find(|(key, _)| key == "service.name");
    ExportedSpan {
        service: service
            .and_then(|(_, name)| name.as_str())
            .unwrap_or_default()
            .to_owned(),
        name: text("name"),
        trace_id: text("traceId"),
        span_id: text("spanId"),
        parent_id: text("parentSpanId"),
        kind: span["kind"].as_u64().unwrap_or_default(),
        links: list(&span["links"])
            .iter()
            .filter_map(|link| link["spanId"].as_str().map(str::to_owned))
            .collect(),
        attributes: all,
    }
}

/// Each value is an object such as `{"stringValue": "…"}`; integers are texts in there, as in all JSON of Protocol Buffers.
fn attributes(list_of: &Value) -> Vec<(String, Value)> {
    let entry = |attribute: &Value| {
        let (kind, value) = attribute["value"].as_object()?.iter().next()?;
        let integer = || value.as_str()?.parse::<i64>().ok();
        let value = match kind.as_str() {
            "intValue" => integer().map_or_else(|| value.clone(), Value::from),
            _ => value.clone(),
        };
        Some((attribute["key"].as_str()?.to_owned(), value))
    };
    list(list_of).iter().filter_map(entry).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
