//! `cargo xtask up --observe`: what watches the stack, beside it.

use anyhow::{Result, bail};
use test_support::servers::{Prometheus, PrometheusOptions, Target, packages};

use crate::services::{Service, Services};
use crate::workspace::{self, State};

/// Prometheus' programs, and their package.
pub const PACKAGES: [(&str, &str); 2] = [("prometheus", "prometheus"), ("promtool", "prometheus")];

/// What watches; stops with this.
#[derive(Debug)]
pub struct Observers {
    prometheus: Prometheus,
}

impl Observers {
    /// Starts a Prometheus that scrapes all services and evaluates the rules.
    pub fn start(state: &State, services: &Services) -> Result<Self> {
        packages::ensure_programs(&PACKAGES)?;
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
        let prometheus = Prometheus::start(&state.join("prometheus"), &options)?;
        Ok(Self { prometheus })
    }

    /// Says where they are.
    pub fn print_addresses(&self) {
        let url = self.prometheus.url();
        println!("Prometheus  {url}  (targets: {url}/targets, alerts: {url}/alerts)");
    }

    /// An error that says which of them ended.
    pub fn check(&self) -> Result<()> {
        if let Some(status) = self.prometheus.unexpected_end()? {
            bail!("Prometheus ended: {status}; its log is target/up/prometheus/prometheus.log");
        }
        Ok(())
    }

    /// Stops them in order.
    pub fn stop(&mut self) -> Result<()> {
        self.prometheus.stop()
    }
}
