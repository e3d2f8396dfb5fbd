//! `cargo xtask up --observe`: what watches the stack, beside it.

pub mod collector;

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use test_support::servers::{Collector, Prometheus, PrometheusOptions, Target, packages};
use test_support::try_eventually;

use crate::interrupt::Interrupt;
use crate::services::{Service, Services};
use crate::workspace::{self, State};

/// Prometheus' programs, and their package.
pub const PACKAGES: [(&str, &str); 2] = [("prometheus", "prometheus"), ("promtool", "prometheus")];

/// Spans that the collector has taken, of each service.
const EXPORTED: &str = r#"sum by (job) (identity_trace_spans_total{outcome="exported"})"#;
const SERVICES: f64 = 3.0;

/// What [`Observers::seen`] has found.
#[derive(Debug)]
pub struct Watched {
    /// Processes that are scraped.
    pub targets: usize,
    /// Rules that are evaluated.
    pub rules: usize,
    /// Spans that the collector has taken, if there is one.
    pub spans: Option<f64>,
}

/// What watches; stops with this.
#[derive(Debug)]
pub struct Observers {
    /// Where there is Go to build it with.
    collector: Option<Collector>,
    prometheus: Option<Prometheus>,
}

impl Observers {
    /// Starts the collector, which the services must find.
    pub fn start(state: &State, interrupt: &Interrupt) -> Result<Self> {
        packages::ensure_programs(&PACKAGES)?;
        let program = collector::binary(state.dir(), interrupt)?;
        if program.is_none() {
            println!("No OpenTelemetry Collector: Go 1.26 or later is not installed.");
        }
        let start = |program| {
            let dir = state.join("collector");
            Collector::start(program, &collector::config_dir()?, &dir)
        };
        let collector = program.as_deref().map(start).transpose()?;
        Ok(Self {
            collector,
            prometheus: None,
        })
    }

    /// Where the services send their traces, over gRPC.
    pub fn otlp_endpoint(&self) -> Option<String> {
        self.collector.as_ref().map(Collector::grpc_url)
    }

    /// Starts a Prometheus that scrapes all services and evaluates the rules.
    pub fn watch(&mut self, state: &State, services: &Services) -> Result<()> {
        let target = |job: &str, service: &Service| Target {
            job: job.to_owned(),
            pod: service.name.clone(),
            admin_url: service.admin_url.clone(),
        };
        let replicas = services.replicas.iter().map(|it| target("server-a", it));
        let others = [
            target("server-b", &services.server_b),
            target("user-service", &services.user_service),
        ];
        let options = PrometheusOptions {
            interval_seconds: 5,
            rules: workspace::root()?.join("observability/rules"),
            targets: replicas.chain(others).collect(),
        };
        let prometheus = Prometheus::start(&state.join("prometheus"), &options);
        self.prometheus = Some(prometheus.context("starting Prometheus")?);
        Ok(())
    }

    /// Says where they are.
    pub fn print_addresses(&self) {
        if let Some(prometheus) = &self.prometheus {
            let url = prometheus.url();
            println!("Prometheus  {url}  (targets: {url}/targets, alerts: {url}/alerts)");
        }
        if let Some(collector) = &self.collector {
            let file = collector.traces_file();
            println!(
                "Collector   {} (gRPC), {} (HTTP); traces: {}",
                collector.grpc_url(),
                collector.http_url(),
                file.display()
            );
        }
    }

    /// Waits until every target is scraped, every rule is evaluated and the collector has taken traces of every service and
    /// written them; gives how many there are.
    pub fn seen(&self, deadline: Duration) -> Result<Watched> {
        let prometheus = self.prometheus.as_ref().context("no Prometheus runs")?;
        try_eventually(deadline, "all to be watched", || {
            let targets = list(prometheus, "targets?state=active", "activeTargets")?;
            let down = targets.iter().find(|it| it["health"] != "up");
            ensure!(down.is_none() && !targets.is_empty(), "{down:?}");
            let groups = list(prometheus, "rules", "groups")?;
            let rules = groups.iter().filter_map(|it| it["rules"].as_array());
            let rules: Vec<&Value> = rules.flatten().collect();
            let bad = rules.iter().find(|it| it["health"] != "ok");
            ensure!(bad.is_none() && !rules.is_empty(), "{bad:?}");
            let collector = self.collector.as_ref();
            let spans = collector.map(|it| taken(prometheus, it)).transpose()?;
            Ok(Watched {
                targets: targets.len(),
                rules: rules.len(),
                spans,
            })
        })
    }

    /// An error that says what ended.
    pub fn check(&self) -> Result<()> {
        if let Some(prometheus) = &self.prometheus
            && let Some(status) = prometheus.unexpected_end()?
        {
            bail!("Prometheus ended: {status}; its log is target/up/prometheus/prometheus.log");
        }
        if let Some(collector) = &self.collector
            && let Some(status) = collector.unexpected_end()?
        {
            bail!("the collector ended: {status}; its log is target/up/collector/console.log");
        }
        Ok(())
    }

    /// Stops Prometheus in order.
    pub fn stop(&mut self) -> Result<()> {
        self.prometheus.as_mut().map_or(Ok(()), Prometheus::stop)
    }
}

fn taken(prometheus: &Prometheus, collector: &Collector) -> Result<f64> {
    let services = number(prometheus, &format!("count({EXPORTED} > 0)"))?;
    ensure!(services >= SERVICES, "traces of {services} services");
    let file = collector.traces_file();
    let size = fs::metadata(&file).with_context(|| format!("reading {}", file.display()))?;
    ensure!(size.len() > 0, "{} is empty", file.display());
    number(prometheus, &format!("sum({EXPORTED})"))
}

/// The value of an expression that has one.
fn number(prometheus: &Prometheus, expression: &str) -> Result<f64> {
    let result = prometheus.query(expression)?;
    let value = result[0]["value"][1].as_str();
    Ok(value
        .with_context(|| format!("{expression}: {result}"))?
        .parse()?)
}

fn list(prometheus: &Prometheus, path: &str, key: &str) -> Result<Vec<Value>> {
    let mut data = prometheus.get(path)?;
    match data[key].take() {
        Value::Array(items) => Ok(items),
        other => bail!("{path}: {other}"),
    }
}
