//! Our own processes of `cargo xtask up`: one server B, replicas of server A, user-service.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use test_support::servers::{kept_port, random, random_hex, write_private};
use test_support::{Http, ServiceCommand, ServiceProcess};

use crate::interrupt::Interrupt;
use crate::servers::Servers;
use crate::workspace::{self, State};

const READY_DEADLINE: Duration = Duration::from_mins(1);
const STOP_DEADLINE: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Variables of our own environment that the services get too.
const PASSED_ON: [&str; 5] = ["LOG", "OTEL_", "RABBITMQ_", "DATABASE_", "SSL_CERT_"];
/// Of them, those that say where traces go and how; a collector of our own takes their place as a whole.
const OTLP: &str = "OTEL_EXPORTER_OTLP_";
const OTLP_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// The running services.
#[derive(Debug)]
pub struct Services {
    /// Server B.
    pub server_b: Service,
    /// The replicas of server A.
    pub replicas: Vec<Service>,
    /// user-service.
    pub user_service: Service,
    /// The bearer token of B's REST API.
    pub admin_token: String,
    /// The broker's URL.
    pub rabbitmq_url: String,
    /// The database's URL.
    pub database_url: String,
    /// The URL of user-service's database.
    pub user_service_database_url: String,
    sealing_key: PathBuf,
    otlp_endpoint: Option<String>,
}

/// One running service.
#[derive(Debug)]
pub struct Service {
    /// Its name in messages, like `a-0`.
    pub name: String,
    /// Where its API is.
    pub url: String,
    /// Where its probes, status and metrics are.
    pub admin_url: String,
    process: ServiceProcess,
}

/// What all services get.
struct Common<'a> {
    state: &'a State,
    rabbitmq_url: &'a str,
    /// Where traces go, in place of what the environment says.
    otlp_endpoint: Option<&'a str>,
}

impl Services {
    /// Starts server B and user-service, which migrate their databases, and the replicas, and waits until all are ready.
    pub fn start(
        state: &State,
        servers: &Servers,
        replicas: u16,
        otlp_endpoint: Option<String>,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        for name in ["log", "ports"] {
            fs::create_dir_all(state.join(name)).context("creating a directory for logs")?;
        }
        let (rabbitmq_url, database_url) = (servers.rabbitmq_url(), servers.database_url());
        let user_service_database_url = servers.user_service_database_url()?;
        let admin_token = kept(state, "admin-token", random_hex)?;
        // By it server B knows server A, when it is asked what became of SMS.
        let service_token = kept(state, "service-token", random_hex)?;
        let sealing_key = state.join("key-sealing-key");
        kept(state, "key-sealing-key", || {
            Ok(STANDARD.encode(random::<32>()?))
        })?;

        let common = Common {
            state,
            rabbitmq_url: &rabbitmq_url,
            otlp_endpoint: otlp_endpoint.as_deref(),
        };
        let server_b = common.start("b", "server-b", (8070, 9070), |command| {
            command
                .arg("serve")
                .env("DATABASE_URL", &database_url)
                .env("ADMIN_TOKEN", &admin_token)
                .env("SERVICE_TOKEN", &service_token)
                .env("KEY_SEALING_KEY_FILE", sealing_key.display().to_string())
        })?;
        let replicas = (0..replicas).map(|number| {
            let name = format!("a-{number}");
            common.start(
                &name,
                "server-a",
                (8080 + number, 9080 + number),
                |command| {
                    command
                        .env("INSTANCE", &name)
                        .env("SERVER_B_URL", &server_b.url)
                        .env("SERVICE_TOKEN", &service_token)
                },
            )
        });
        let replicas = replicas.collect::<Result<_>>()?;
        let user_service = common.start("users", "user-service", (8060, 9060), |command| {
            command
                .arg("serve")
                .env("DATABASE_URL", &user_service_database_url)
        })?;
        let services = Self {
            server_b,
            replicas,
            user_service,
            admin_token,
            rabbitmq_url,
            database_url,
            user_service_database_url,
            sealing_key,
            otlp_endpoint,
        };
        services.wait_until_ready(interrupt)?;
        Ok(services)
    }

    /// An error that names a service that has ended, with its last lines.
    pub fn check(&self) -> Result<()> {
        for service in self.all() {
            if let Some(status) = service.process.exit_status()? {
                let lines = service.process.last_lines(20);
                bail!(
                    "{} ended unexpectedly: {status}. Its last lines:\n{lines}",
                    service.name
                );
            }
        }
        Ok(())
    }

    /// Runs the command line of server B and gives what it printed.
    pub fn server_b_cli(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(workspace::bin_dir()?.join("server-b"));
        if self.otlp_endpoint.is_some() {
            for (name, _) in env::vars().filter(|(name, _)| name.starts_with(OTLP)) {
                command.env_remove(name);
            }
        }
        let output = command
            .args(arguments)
            .envs(passed_on(env::vars(), self.otlp_endpoint.as_deref()))
            .env("RABBITMQ_URL", &self.rabbitmq_url)
            .env("DATABASE_URL", &self.database_url)
            .env("KEY_SEALING_KEY_FILE", &self.sealing_key)
            .stdin(Stdio::null())
            .output()
            .context("running server-b")?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "server-b {}: {}",
            arguments.join(" "),
            error.trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Asks all to end, kills those that do not, and says how each ended. An error if one did not end in order.
    pub fn stop(self) -> Result<()> {
        for service in self.all() {
            service.process.terminate()?;
        }
        let end = Instant::now() + STOP_DEADLINE;
        let mut disorder = Vec::new();
        for service in self.all() {
            let left = end.saturating_duration_since(Instant::now());
            let outcome = match service.process.wait_exit(left) {
                Ok(status) if status.success() => continue,
                Ok(status) => format!("{} ended with {status}", service.name),
                Err(_) => {
                    service.process.kill9()?;
                    format!("{} was killed, since it did not end in time", service.name)
                }
            };
            disorder.push(outcome);
        }
        ensure!(disorder.is_empty(), "{}", disorder.join("; "));
        Ok(())
    }

    fn all(&self) -> impl Iterator<Item = &Service> {
        // The replicas first: they have requests to answer.
        self.replicas
            .iter()
            .chain([&self.server_b, &self.user_service])
    }

    /// Server B first: the replicas wait for it, so its reason is the better one.
    fn wait_until_ready(&self, interrupt: &Interrupt) -> Result<()> {
        let http = Http::new();
        let end = Instant::now() + READY_DEADLINE;
        for service in std::iter::once(&self.server_b).chain(self.all()) {
            let url = format!("{}/readyz", service.admin_url);
            loop {
                interrupt.check()?;
                self.check()?;
                let seen = match http.get(&url) {
                    Ok(answer) if answer.status == 200 => break,
                    Ok(answer) => format!("{} {}", answer.status, answer.body),
                    Err(error) => format!("{error:#}"),
                };
                let lines = || service.process.last_lines(20);
                ensure!(
                    Instant::now() < end,
                    "{} is not ready: {seen}\n{}",
                    service.name,
                    lines()
                );
                std::thread::sleep(POLL_INTERVAL);
            }
        }
        Ok(())
    }
}

impl Common<'_> {
    /// `ports` are those of the API and of the probes on the first run.
    fn start(
        &self,
        name: &str,
        binary: &str,
        ports: (u16, u16),
        more: impl FnOnce(ServiceCommand) -> ServiceCommand,
    ) -> Result<Service> {
        let address = |kind: &str, first| {
            let file = self.state.join(&format!("ports/{name}.{kind}"));
            kept_port(&file, Some(first)).map(|port| format!("127.0.0.1:{port}"))
        };
        let (public, admin) = (address("public", ports.0)?, address("admin", ports.1)?);
        let command = passed_on(env::vars(), self.otlp_endpoint)
            .fold(ServiceCommand::new(binary), |command, (name, value)| {
                command.env(&name, value)
            })
            .env("LOG_FORMAT", "text")
            .env("RABBITMQ_URL", self.rabbitmq_url)
            .env("LISTEN", &public)
            .env("ADMIN_LISTEN", &admin)
            .bin_dir(workspace::bin_dir()?)
            .state_dir(self.state.dir())
            .log(self.state.join(&format!("log/{name}.log")));
        let process = more(command).start()?;
        let (url, admin_url) = (format!("http://{public}"), format!("http://{admin}"));
        Ok(Service {
            name: name.to_owned(),
            url,
            admin_url,
            process,
        })
    }
}

/// What the services get of an environment; with an endpoint of our own nothing of it says where traces go.
fn passed_on(
    environment: impl Iterator<Item = (String, String)>,
    otlp_endpoint: Option<&str>,
) -> impl Iterator<Item = (String, String)> {
    let ours = otlp_endpoint.is_some();
    let passed_on = environment.filter(move |(name, _)| {
        PASSED_ON.iter().any(|it| name.starts_with(it)) && !(ours && name.starts_with(OTLP))
    });
    passed_on.chain(otlp_endpoint.map(|it| (OTLP_ENDPOINT.to_owned(), it.to_owned())))
}

/// The secret in a file of the state directory, made on the first run.
fn kept(state: &State, name: &str, make: impl FnOnce() -> Result<String>) -> Result<String> {
    let file = state.join(name);
    if let Ok(secret) = fs::read_to_string(&file) {
        return Ok(secret);
    }
    let secret = make()?;
    write_private(&file, &secret)?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_of_our_own_takes_the_place_of_all_that_the_environment_says_of_otlp() {
        let environment = || {
            let variables = [
                ("HOME", "/root"),
                ("LOG", "debug"),
                ("OTEL_TRACES_SAMPLER", "always_on"),
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://elsewhere"),
                ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://elsewhere/v1"),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
                ("OTEL_EXPORTER_OTLP_HEADERS", "key=secret"),
            ];
            variables
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
        };
        let without: Vec<_> = passed_on(environment(), None).collect();
        assert!(without.iter().cloned().eq(environment().skip(1)));
        let with: Vec<_> = passed_on(environment(), Some("http://here")).collect();
        let expected = [
            ("LOG", "debug"),
            ("OTEL_TRACES_SAMPLER", "always_on"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://here"),
        ];
        assert_eq!(
            with,
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
    }
}
