//! A private Prometheus.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::state_dir::StateDir;
use crate::children::{self, Launch, Process, Signal};
use crate::eventually::try_eventually;
use crate::http::Http;

const START_DEADLINE: Duration = Duration::from_mins(1);
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// What is scraped, and which rules are evaluated.
#[derive(Debug, Clone)]
pub struct PrometheusOptions {
    /// Seconds between two scrapes, and between two evaluations of the rules.
    pub interval_seconds: u32,
    /// Directory of the rule files, `*.yaml`.
    pub rules: PathBuf,
    /// What is scraped.
    pub targets: Vec<Target>,
}

/// One process.
#[derive(Debug, Clone)]
pub struct Target {
    /// The label `job`: the service.
    pub job: String,
    /// The label `pod`.
    pub pod: String,
    /// Where its `/metrics` is, like `http://127.0.0.1:9090`.
    pub admin_url: String,
}

/// A running Prometheus on the loopback, stopped when dropped. Its data stay in its directory.
#[derive(Debug)]
pub struct Prometheus {
    dir: StateDir,
    port: u16,
    server: Option<Process>,
    http: Http,
}

impl Prometheus {
    /// Starts it in `dir`, which is made on the first run. What an earlier run left running there is killed.
    ///
    /// # Errors
    /// If the package `prometheus` is not installed, or the rules cannot be read.
    pub fn start(dir: &Path, options: &PrometheusOptions) -> Result<Self> {
        let dir = StateDir::create(dir)?;
        children::kill_leftovers(dir.path())?;
        let port = dir.port("prometheus")?;
        let config = dir.join("prometheus.yml");
        // JSON is YAML.
        fs::write(&config, format!("{:#}\n", configuration(options)))
            .with_context(|| format!("writing {}", config.display()))?;
        let mut command = children::command(Path::new("prometheus"), dir.path(), Launch::default());
        let log = super::append(&dir.join("prometheus.log"))?;
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                dir.join("data").display()
            ))
            .arg(format!(
                "--web.listen-address={}:{port}",
                Ipv4Addr::LOCALHOST
            ))
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let server = children::spawn(command)?;
        let prometheus = Self {
            dir,
            port,
            server: Some(server),
            http: Http::new(),
        };
        prometheus.wait_until_ready()?;
        Ok(prometheus)
    }

    fn wait_until_ready(&self) -> Result<()> {
        let outcome = try_eventually(START_DEADLINE, "Prometheus to be ready", || {
            let ended = self.unexpected_end()?;
            // One that has ended will not become ready: no need to wait on.
            if ended.is_none() {
                let answer = self.http.get(&format!("{}/-/ready", self.url()))?;
                ensure!(answer.status == 200, "{}", answer.text);
            }
            anyhow::Ok(ended)
        });
        let log = self.dir.join("prometheus.log");
        let tail = || format!("the end of {}:\n{}", log.display(), super::tail(&log));
        let ended = outcome.with_context(tail)?;
        ensure!(ended.is_none(), "Prometheus ended: {ended:?}\n{}", tail());
        Ok(())
    }

    /// Where its page and its API are.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}:{}", Ipv4Addr::LOCALHOST, self.port)
    }

    /// The value of an expression now, as the API has it: for a vector, a list of `{metric, value}`.
    ///
    /// # Errors
    /// If Prometheus does not take the expression.
    pub fn query(&self, expression: &str) -> Result<Value> {
        let answer = self.get(&format!("query?query={}", escaped(expression)));
        Ok(answer.with_context(|| expression.to_owned())?["result"].take())
    }

    /// What is at a path below `/api/v1/`: the answer's `data`.
    ///
    /// # Errors
    /// If Prometheus refuses.
    pub fn get(&self, path: &str) -> Result<Value> {
        let mut answer = self.http.get(&format!("{}/api/v1/{path}", self.url()))?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text);
        Ok(answer.body["data"].take())
    }

    /// How it ended, or `None` while it runs or was stopped on purpose.
    pub fn unexpected_end(&self) -> Result<Option<std::process::ExitStatus>> {
        self.server.as_ref().map_or(Ok(None), Process::exit_status)
    }

    /// Stops it in order.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(server) = self.server.take() {
            server.stop(Signal::TERM, STOP_DEADLINE)?;
        }
        Ok(())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("{error:#}");
        }
    }
}

fn configuration(options: &PrometheusOptions) -> Value {
    let interval = format!("{}s", options.interval_seconds);
    let targets = options.targets.iter().map(|target| {
        let address = target.admin_url.trim_start_matches("http://");
        // As the chart's PodMonitor labels them.
        json!({
            "targets": [address],
            "labels": {"job": target.job, "namespace": "local", "pod": target.pod},
        })
    });
    json!({
        "global": {
            "scrape_interval": interval,
            "scrape_timeout": interval,
            "evaluation_interval": interval,
        },
        "rule_files": [options.rules.join("*.yaml")],
        // Exporters that tell of others name them; our own processes have none of these labels themselves.
        "scrape_configs": [{
            "job_name": "identity-sync",
            "honor_labels": true,
            "static_configs": targets.collect::<Vec<_>>(),
        }],
    })
}

/// As the value of a URL's parameter.
fn escaped(text: &str) -> String {
    let bytes: Vec<String> = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
    bytes.concat()
}
