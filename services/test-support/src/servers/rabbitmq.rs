//! A private RabbitMQ broker.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::management::Management;
use super::packages;
use super::state_dir::{StateDir, write_private};
use super::{TlsFiles, USER};
use crate::children::{self, Launch, Process, Signal};
use crate::eventually::try_eventually;

/// The epmd is private, so the name cannot clash with another broker's.
const NODE: &str = "identity@localhost";
const START_DEADLINE: Duration = Duration::from_mins(2);
const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// What a broker is started with, besides the defaults.
#[derive(Debug, Clone, Default)]
pub struct RabbitMqOptions {
    /// Adds a TLS listener with this identity.
    pub tls: Option<TlsFiles>,
    /// More lines of `rabbitmq.conf`, like `vm_memory_high_watermark.absolute = 100MB`.
    pub config: Vec<String>,
}

/// A running broker on the loopback, stopped when dropped. Its data stay in its directory.
#[derive(Debug)]
pub struct RabbitMq {
    dir: StateDir,
    program: PathBuf,
    ports: Ports,
    password: String,
    epmd: Option<Process>,
    broker: Option<Process>,
}

#[derive(Debug)]
struct Ports {
    amqp: u16,
    amqps: u16,
    management: u16,
    distribution: u16,
    epmd: u16,
}

impl RabbitMq {
    /// Starts the broker in `dir`, which is made on the first run. What an earlier run left running there is killed.
    pub fn start(dir: &Path, options: &RabbitMqOptions) -> Result<Self> {
        let program = packages::find()?.rabbitmq_server;
        let dir = StateDir::create(dir)?;
        children::kill_leftovers(dir.path())?;
        let ports = Ports {
            amqp: dir.port("amqp")?,
            amqps: dir.port("amqps")?,
            management: dir.port("management")?,
            distribution: dir.port("distribution")?,
            epmd: dir.port("epmd")?,
        };
        let password = dir.secret("password")?;
        let mut broker = Self {
            dir,
            program,
            ports,
            password,
            epmd: None,
            broker: None,
        };
        broker.configure(options)?;
        broker.start_again()?;
        Ok(broker)
    }

    /// Starts the broker after [`Self::stop`] or [`Self::kill9`], on the same ports and data.
    pub fn start_again(&mut self) -> Result<()> {
        self.launch()?;
        self.wait_until_ready()
    }

    /// Starts the broker without waiting until it is ready.
    pub fn launch(&mut self) -> Result<()> {
        ensure!(self.broker.is_none(), "RabbitMQ runs already");
        if self.epmd.is_none() {
            self.start_epmd()?;
        }
        let mut command = children::command(&self.program, self.dir.path(), Launch::default());
        self.set_environment(&mut command);
        let log = super::append(&self.dir.join("console.log"))?;
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        self.broker = Some(children::spawn(command)?);
        Ok(())
    }

    /// Waits until clients are accepted.
    pub fn wait_until_ready(&self) -> Result<()> {
        let outcome = try_eventually(START_DEADLINE, "RabbitMQ to be ready", || {
            let ended = self.unexpected_end()?;
            // A broker that has ended will not become ready: no need to wait on.
            if ended.is_none() {
                self.answers().map(|()| ended)
            } else {
                Ok(ended)
            }
        });
        let ended = outcome.with_context(|| self.log_tails())?;
        ensure!(
            ended.is_none(),
            "RabbitMQ ended: {ended:?}\n{}",
            self.log_tails()
        );
        Ok(())
    }

    fn answers(&self) -> Result<()> {
        TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports.amqp)))?;
        self.management().get("/api/vhosts").map(drop)
    }

    fn log_tails(&self) -> String {
        let logs = [self.dir.join("console.log"), self.log()];
        logs.map(|log| format!("the end of {}:\n{}", log.display(), super::tail(&log)))
            .join("\n")
    }

    /// Stops it in order.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(broker) = self.broker.take() {
            broker.stop(Signal::TERM, STOP_DEADLINE)?;
        }
        self.epmd = None;
        // Helpers that Erlang starts end by themselves, but a moment later.
        children::kill_leftovers(self.dir.path()).map(drop)
    }

    /// Kills it as a crash would. Durable queues survive, with the messages that were confirmed.
    pub fn kill9(&mut self) -> Result<()> {
        if let Some(broker) = self.broker.take() {
            broker.kill()?;
        }
        Ok(())
    }

    /// Raises the alarm of the broker's memory, or ends it: while it lasts, publishers are blocked.
    pub fn memory_alarm(&self, raised: bool) -> Result<()> {
        let limit: &[&str] = if raised {
            &["absolute", "1MB"]
        } else {
            &["0.6"]
        };
        let mut command = Command::new(self.program.with_file_name("rabbitmqctl"));
        self.set_environment(&mut command);
        command
            .env_remove("RABBITMQ_ALLOW_INPUT")
            .arg("set_vm_memory_high_watermark")
            .args(limit)
            .stdin(Stdio::null());
        let output = command.output().context("running rabbitmqctl")?;
        ensure!(
            output.status.success(),
            "rabbitmqctl: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// How the broker ended, or `None` while it runs or was stopped on purpose.
    pub fn unexpected_end(&self) -> Result<Option<std::process::ExitStatus>> {
        self.broker.as_ref().map_or(Ok(None), Process::exit_status)
    }

    /// The URL of a virtual host, with user and password; `/` is the default one.
    #[must_use]
    pub fn amqp_url(&self, vhost: &str) -> String {
        let login = format!("{USER}:{}", self.password);
        amqp_url(
            &format!("amqp://{login}@{}:{}", Ipv4Addr::LOCALHOST, self.ports.amqp),
            vhost,
        )
    }

    /// The TLS form, by the name `localhost`; needs [`RabbitMqOptions::tls`].
    #[must_use]
    pub fn amqps_url(&self, vhost: &str) -> String {
        let login = format!("{USER}:{}", self.password);
        amqp_url(
            &format!("amqps://{login}@localhost:{}", self.ports.amqps),
            vhost,
        )
    }

    /// The port of the plain AMQP listener.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.ports.amqp
    }

    /// The management API with user and password.
    #[must_use]
    pub fn management_url(&self) -> String {
        self.management().url()
    }

    /// A client of the management API.
    #[must_use]
    pub fn management(&self) -> Management {
        let address = format!("{}:{}", Ipv4Addr::LOCALHOST, self.ports.management);
        Management::new(&address, USER, &self.password)
    }

    /// The broker's log file.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.dir.join("rabbitmq.log")
    }

    /// The last lines of level error in the log, so many at most.
    #[must_use]
    pub fn last_errors(&self, lines: usize) -> String {
        let log = fs::read(self.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let errors: Vec<&str> = log.lines().filter(|it| it.contains("[error]")).collect();
        errors[errors.len().saturating_sub(lines)..].join("\n")
    }

    fn start_epmd(&mut self) -> Result<()> {
        let port = self.ports.epmd;
        // Started here rather than by Erlang, whose daemon would outlive the broker.
        let mut command = children::command(Path::new("epmd"), self.dir.path(), Launch::default());
        command.args(["-address", "127.0.0.1", "-port", &port.to_string()]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.epmd = Some(children::spawn(command)?);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        try_eventually(START_DEADLINE, "epmd to listen", || {
            TcpStream::connect(address)
        })
        .map(drop)
    }

    /// Every path and port that the scripts would else take from the system instance.
    fn set_environment(&self, command: &mut Command) {
        let dir = |name: &str| self.dir.join(name).into_os_string();
        command
            // Erlang makes the cookie there, readable for its owner only.
            .env("HOME", self.dir.path())
            .env("ERL_CRASH_DUMP_BYTES", "0")
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("ERL_EPMD_PORT", self.ports.epmd.to_string())
            .env("RABBITMQ_NODENAME", NODE)
            .env("RABBITMQ_DIST_PORT", self.ports.distribution.to_string())
            .env("RABBITMQ_CONF_ENV_FILE", dir("rabbitmq-env.conf"))
            .env("RABBITMQ_CONFIG_FILE", dir("rabbitmq.conf"))
            .env("RABBITMQ_CONFIG_FILES", dir("conf.d/*.conf"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", dir("advanced.config"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", dir("enabled_plugins"))
            .env("RABBITMQ_GENERATED_CONFIG_DIR", dir("generated"))
            .env("RABBITMQ_SCHEMA_DIR", dir("schema"))
            .env("RABBITMQ_MNESIA_BASE", dir("mnesia"))
            .env("RABBITMQ_MNESIA_DIR", dir("mnesia/node"))
            .env("RABBITMQ_PLUGINS_EXPAND_DIR", dir("plugins"))
            .env("RABBITMQ_FEATURE_FLAGS_FILE", dir("mnesia/feature_flags"))
            .env("RABBITMQ_PID_FILE", dir("rabbitmq.pid"))
            .env("RABBITMQ_LOG_BASE", self.dir.path())
            .env("RABBITMQ_LOGS", self.log())
            // Makes the script become the broker instead of starting it as a child, so that our signals reach it; the
            // input that it allows is then taken back.
            .env("RABBITMQ_ALLOW_INPUT", "true")
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                // Two schedulers that do not spin while idle: the machine is shared with builds and tests.
                "-noinput +S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none \
                 -kernel inet_dist_use_interface {127,0,0,1}",
            );
    }

    fn configure(&self, options: &RabbitMqOptions) -> Result<()> {
        for name in ["conf.d", "mnesia", "schema", "generated"] {
            self.dir.subdir(name)?;
        }
        fs::write(self.dir.join("rabbitmq-env.conf"), "")?;
        fs::write(self.dir.join("advanced.config"), "[].\n")?;
        fs::write(self.dir.join("enabled_plugins"), "[rabbitmq_management].\n")?;
        write_private(
            &self.dir.join("rabbitmq.conf"),
            &self.config_lines(options).join("\n"),
        )
    }

    fn config_lines(&self, options: &RabbitMqOptions) -> Vec<String> {
        let mut lines = vec![
            format!("listeners.tcp.1 = 127.0.0.1:{}", self.ports.amqp),
            "management.tcp.ip = 127.0.0.1".to_owned(),
            format!("management.tcp.port = {}", self.ports.management),
            // Made instead of `guest`, on the first start.
            format!("default_user = {USER}"),
            format!("default_pass = {}", self.password),
            "default_user_tags.administrator = true".to_owned(),
            // In milliseconds: how old what the management API tells may be.
            "collect_statistics_interval = 500".to_owned(),
            "disk_free_limit.absolute = 50MB".to_owned(),
            "raft.wal_max_size_bytes = 64000000".to_owned(),
        ];
        if let Some(tls) = &options.tls {
            lines.extend([
                format!("listeners.ssl.1 = 127.0.0.1:{}", self.ports.amqps),
                format!("ssl_options.cacertfile = {}", tls.authority.display()),
                format!("ssl_options.certfile = {}", tls.certificate.display()),
                format!("ssl_options.keyfile = {}", tls.key.display()),
                "ssl_options.verify = verify_none".to_owned(),
                "ssl_options.fail_if_no_peer_cert = false".to_owned(),
            ]);
        }
        lines.extend(options.config.iter().cloned());
        lines.push(String::new());
        lines
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("could not stop RabbitMQ: {error:#}");
        }
    }
}

/// `base` has scheme, login and address; the name of the virtual host is escaped as the AMQP URI specification says.
pub(crate) fn amqp_url(base: &str, vhost: &str) -> String {
    format!("{base}/{}", super::management::segment(vhost))
}
