//! A private PostgreSQL cluster.

use std::fs;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::packages::{self, is_root};
use super::state_dir::{StateDir, write_private};
use super::{TlsFiles, USER};
use crate::children::{self, Launch, Process, Signal};
use crate::eventually::try_eventually;

/// The server refuses to run as root; the package brings this user.
const SYSTEM_USER: &str = "postgres";
const START_DEADLINE: Duration = Duration::from_mins(1);
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// What a cluster is started with, besides the defaults.
#[derive(Debug, Clone, Default)]
pub struct PostgresOptions {
    /// Offers TLS with this identity.
    pub tls: Option<TlsFiles>,
    /// More lines of `postgresql.conf`; they win over the defaults.
    pub settings: Vec<(String, String)>,
}

impl PostgresOptions {
    /// For data that need not survive a crash of the machine (a kill -9 of the server it does survive).
    #[must_use]
    pub fn for_tests() -> Self {
        let off = |name: &str| (name.to_owned(), "off".to_owned());
        Self {
            tls: None,
            settings: vec![off("fsync"), off("full_page_writes")],
        }
    }

    /// Durable, and with room for a million users: the package's defaults are for a small machine.
    #[must_use]
    pub fn for_benchmarks() -> Self {
        let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        Self {
            tls: None,
            settings: vec![set("shared_buffers", "512MB"), set("max_wal_size", "4GB")],
        }
    }
}

/// A running cluster on the loopback, stopped when dropped. Its data stay in its directory.
#[derive(Debug)]
pub struct Postgres {
    dir: StateDir,
    bin: PathBuf,
    port: u16,
    password: String,
    server: Option<Process>,
}

impl Postgres {
    /// Starts the cluster in `dir`, which is made on the first run. What an earlier run left running there is killed.
    pub fn start(dir: &Path, options: &PostgresOptions) -> Result<Self> {
        let bin = packages::find()?.postgres_bin;
        let dir = StateDir::create(dir)?;
        children::kill_leftovers(dir.path())?;
        let password = dir.secret("password")?;
        let port = dir.port("postgres")?;
        let mut postgres = Self {
            dir,
            bin,
            port,
            password,
            server: None,
        };
        if !postgres.data().join("PG_VERSION").exists() {
            postgres.init()?;
        }
        postgres.configure(options)?;
        postgres.start_again()?;
        Ok(postgres)
    }

    /// Starts the server after [`Self::stop`] or [`Self::kill9`], on the same port and data.
    pub fn start_again(&mut self) -> Result<()> {
        ensure!(self.server.is_none(), "PostgreSQL runs already");
        self.clear_up_after_crash()?;
        let log = super::append(&self.log())?;
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        self.server = Some(children::spawn(command)?);
        let outcome = try_eventually(START_DEADLINE, "PostgreSQL to answer", || {
            let ended = self.unexpected_end()?;
            // A server that has ended will not answer: no need to wait on.
            if ended.is_none() {
                self.answers().map(|()| ended)
            } else {
                Ok(ended)
            }
        });
        let tail = || {
            format!(
                "the end of {}:\n{}",
                self.log().display(),
                super::tail(&self.log())
            )
        };
        let ended = outcome.with_context(tail)?;
        ensure!(ended.is_none(), "PostgreSQL ended: {ended:?}\n{}", tail());
        Ok(())
    }

    /// Stops it in order: open connections are closed, data are written.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(server) = self.server.take() {
            server.stop(Signal::INT, STOP_DEADLINE)?;
        }
        Ok(())
    }

    /// Kills it as a crash would.
    pub fn kill9(&mut self) -> Result<()> {
        if let Some(server) = self.server.take() {
            server.kill()?;
        }
        Ok(())
    }

    /// How the server ended, or `None` while it runs or was stopped on purpose.
    pub fn unexpected_end(&self) -> Result<Option<std::process::ExitStatus>> {
        self.server.as_ref().map_or(Ok(None), Process::exit_status)
    }

    /// The URL of a database, with user and password, by address 127.0.0.1.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!(
            "postgres://{USER}:{}@{}:{}/{database}",
            self.password,
            Ipv4Addr::LOCALHOST,
            self.port
        )
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The password of [`USER`], who is a superuser.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.password
    }

    /// The server's log file.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.dir.join("postgres.log")
    }

    /// Creates a database unless it exists.
    pub fn ensure_database(&self, name: &str) -> Result<()> {
        let exists = format!("SELECT 1 FROM pg_database WHERE datname = '{name}'");
        if psql(&self.url("postgres"), &exists)?.is_empty() {
            psql(
                &self.url("postgres"),
                &format!("CREATE DATABASE \"{name}\""),
            )?;
        }
        Ok(())
    }

    /// Takes a base backup of the running server into its directory, in place of an older one.
    pub fn base_backup(&self) -> Result<()> {
        let backup = self.backup();
        let _ = fs::remove_dir_all(&backup);
        self.dir.subdir("backup")?;
        hand_over(&backup)?;
        let output = self
            .command("pg_basebackup")
            .args([
                "--checkpoint",
                "fast",
                "--wal-method",
                "stream",
                "--no-sync",
            ])
            .args(["--dbname", &self.url("postgres"), "--pgdata"])
            .arg(&backup)
            .output()
            .context("running pg_basebackup")?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "pg_basebackup: {error}");
        Ok(())
    }

    /// Puts the base backup in the place of the data and starts the server from it, after [`Self::stop`] or
    /// [`Self::kill9`].
    pub fn restore(&mut self) -> Result<()> {
        ensure!(self.server.is_none(), "PostgreSQL runs");
        // Sessions of the killed server still work in the directory.
        self.clear_up_after_crash()?;
        fs::remove_dir_all(self.data()).context("removing the data")?;
        fs::rename(self.backup(), self.data()).context("taking the backup's place")?;
        self.start_again()
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn backup(&self) -> PathBuf {
        self.dir.join("backup")
    }

    fn init(&self) -> Result<()> {
        println!(
            "Creating a PostgreSQL cluster in {} …",
            self.dir.path().display()
        );
        // An init that was interrupted leaves half a cluster behind.
        let data = self.data();
        let _ = fs::remove_dir_all(&data);
        self.dir.subdir("data")?;
        hand_over(&data)?;
        let password = self.dir.join("password");
        hand_over(&password)?;
        let output = self
            .command("initdb")
            .arg("--pgdata")
            .arg(&data)
            .args(["--username", USER, "--auth", "scram-sha-256", "--pwfile"])
            .arg(&password)
            .args(["--encoding", "UTF8", "--locale", "C", "--no-sync"])
            .output()
            .context("running initdb")?;
        ensure!(
            output.status.success(),
            "initdb: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    fn configure(&self, options: &PostgresOptions) -> Result<()> {
        let mut settings = vec![
            (
                "listen_addresses".to_owned(),
                Ipv4Addr::LOCALHOST.to_string(),
            ),
            ("port".to_owned(), self.port.to_string()),
            // The path of a socket is limited to 107 bytes; the state directory may be longer.
            ("unix_socket_directories".to_owned(), String::new()),
            ("max_connections".to_owned(), "400".to_owned()),
            ("track_commit_timestamp".to_owned(), "on".to_owned()),
            (
                "ssl".to_owned(),
                if options.tls.is_some() { "on" } else { "off" }.to_owned(),
            ),
        ];
        if let Some(tls) = &options.tls {
            let files = [
                ("ssl_cert_file", &tls.certificate),
                ("ssl_key_file", &tls.key),
                ("ssl_ca_file", &tls.authority),
            ];
            for (setting, source) in files {
                let copy = self.data().join(format!("{setting}.pem"));
                let content = fs::read_to_string(source)
                    .with_context(|| format!("reading {}", source.display()))?;
                write_private(&copy, &content)?;
                hand_over(&copy)?;
                settings.push((setting.to_owned(), copy.display().to_string()));
            }
        }
        settings.extend(options.settings.iter().cloned());
        // Included after initdb's own postgresql.conf; the last of two equal settings wins.
        let lines: Vec<String> = settings
            .iter()
            .map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''")))
            .collect();
        let file = self.data().join("postgresql.auto.conf");
        write_private(&file, &lines.concat())?;
        hand_over(&file)
    }

    fn answers(&self) -> Result<()> {
        psql(&self.url("postgres"), "SELECT 1").map(drop)
    }

    /// Ends the sessions that outlived a killed server, and takes away its lock file: it names a process that may still
    /// be there as a zombie, and then a new server refuses to start.
    fn clear_up_after_crash(&self) -> Result<()> {
        let data = self.data();
        // Sessions overwrite their environment, so they do not carry the mark; but they all work in the data directory.
        try_eventually(
            STOP_DEADLINE,
            "the end of the sessions of a killed server",
            || children::kill_working_in(&data, "postgres") == 0,
        )?;
        match fs::remove_file(data.join("postmaster.pid")) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// A server program as the user it may run as.
    fn command(&self, program: &str) -> Command {
        // SIGINT is PostgreSQL's fast shutdown.
        let launch = Launch {
            death_signal: "INT",
            user: is_root().then_some(SYSTEM_USER),
        };
        children::command(&self.bin.join(program), self.dir.path(), launch)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("could not stop PostgreSQL: {error:#}");
        }
    }
}

/// Makes a file the server's own, with the strict mode it demands.
fn hand_over(path: &Path) -> Result<()> {
    let directory = path.is_dir();
    fs::set_permissions(
        path,
        fs::Permissions::from_mode(if directory { 0o700 } else { 0o600 }),
    )?;
    if is_root() {
        let status = Command::new("chown").arg(SYSTEM_USER).arg(path).status()?;
        ensure!(status.success(), "chown {SYSTEM_USER} {}", path.display());
    }
    Ok(())
}

/// Runs SQL by `psql` and gives its output: unaligned rows, fields separated by `|`. Stops at the first error.
pub fn psql(url: &str, sql: &str) -> Result<String> {
    let bin = packages::find_postgres_bin()?;
    let output = Command::new(bin.join("psql"))
        .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"])
        .args(["--set", "ON_ERROR_STOP=1", "--command", sql, url])
        .stdin(Stdio::null())
        .output()
        .context("running psql")?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "psql: {}", error.trim());
    Ok(String::from_utf8_lossy(&output.stdout)
        .trim_end()
        .to_owned())
}
