//! `cargo xtask up --observe`: what watches the stack, beside it.

pub mod collector;

use anyhow::{Context as _, Result, bail};
use test_support::servers::{Collector, Prometheus, PrometheusOptions, Target, packages};

use crate::interrupt::Interrupt;
use crate::services::{Service, Services};
use crate::workspace::{self, State};

/// Prometheus' programs, and their package.
pub const PACKAGES: [(&str, &str); 2] = [("prometheus", "prometheus"), ("promtool", "prometheus")];

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

    /// An error that says that Prometheus ended; without a collector nothing is lost but traces.
    pub fn check(&self) -> Result<()> {
        if let Some(prometheus) = &self.prometheus
            && let Some(status) = prometheus.unexpected_end()?
        {
            bail!("Prometheus ended: {status}; its log is target/up/prometheus/prometheus.log");
        }
        Ok(())
    }

    /// Stops Prometheus in order.
    pub fn stop(&mut self) -> Result<()> {
        self.prometheus.as_mut().map_or(Ok(()), Prometheus::stop)
    }
}
