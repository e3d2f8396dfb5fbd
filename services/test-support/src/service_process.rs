//! One of our services as a child process.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::Value;

use crate::children::{self, Launch, Process, Signal};
use crate::eventually::try_eventually;
use crate::shared::{BIN_DIR_VAR, variable};

/// How long what a service wrote at last may take to be read.
const OUTPUT_DEADLINE: Duration = Duration::from_secs(2);

/// How to start a service. Of our environment it gets only `PATH`.
#[derive(Debug, Clone)]
pub struct ServiceCommand {
    name: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    bin_dir: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    log: Option<PathBuf>,
}

impl ServiceCommand {
    /// `binary` is the file name of the program, like `server-b`.
    #[must_use]
    pub fn new(binary: &str) -> Self {
        Self {
            name: binary.to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            bin_dir: None,
            state_dir: None,
            log: None,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Where the binary is, if not where `IDENTITY_SYNC_BIN_DIR` says.
    #[must_use]
    pub fn bin_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.bin_dir = Some(dir.into());
        self
    }

    /// Marks the process as belonging to this directory, for [`children::kill_leftovers`].
    #[must_use]
    pub fn state_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(dir.into());
        self
    }

    /// Writes the output to this file too.
    #[must_use]
    pub fn log(mut self, file: impl Into<PathBuf>) -> Self {
        self.log = Some(file.into());
        self
    }

    /// Starts the service.
    pub fn start(self) -> Result<ServiceProcess> {
        let bin_dir = match self.bin_dir {
            Some(dir) => dir,
            None => PathBuf::from(variable(BIN_DIR_VAR)?),
        };
        let program = bin_dir.join(&self.name);
        ensure!(
            program.exists(),
            "there is no {}: build it first",
            program.display()
        );
        // Below `cargo xtask test` everything carries that run's mark.
        let inherited =
            || std::env::var_os(children::MARK).map_or_else(|| bin_dir.clone(), PathBuf::from);
        let state_dir = self.state_dir.unwrap_or_else(inherited);
        let mut command = children::command(&program, &state_dir, Launch::default());
        command.args(&self.arguments).envs(self.environment);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let log = self
            .log
            .as_ref()
            .map(File::create)
            .transpose()
            .context("creating the log file")?;
        let process = children::spawn(command)?;
        let output = Output {
            text: Arc::default(),
            log: Arc::new(Mutex::new(log)),
        };
        let readers = vec![
            output.read_from(process.take_stdout().context("stdout is piped")?),
            output.read_from(process.take_stderr().context("stderr is piped")?),
        ];
        Ok(ServiceProcess {
            name: self.name,
            process,
            output,
            readers,
        })
    }
}

/// A running service, killed when dropped.
#[derive(Debug)]
pub struct ServiceProcess {
    name: String,
    process: Process,
    output: Output,
    readers: Vec<JoinHandle<()>>,
}

impl ServiceProcess {
    /// The name of its binary.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The address that the service logged for its `server` (`public` or `admin`), with `LOG_FORMAT=json`: the line
    /// `{"fields": {"message": "listening", "server": …, "address": …}}`.
    pub fn wait_for_address(&self, server: &str, deadline: Duration) -> Result<SocketAddr> {
        let what = format!("{} to tell the address of its {server} server", self.name);
        let mut ended_at = None;
        let address = try_eventually(deadline, &what, || {
            // A service that has ended will not tell any more: no need to wait on, once all it wrote is read.
            let ended = self.process.exit_status()?.is_some() && {
                let since = *ended_at.get_or_insert_with(Instant::now);
                self.readers.iter().all(JoinHandle::is_finished)
                    || since.elapsed() > OUTPUT_DEADLINE
            };
            let address = listening_address(&self.output(), server);
            if address.is_some() || ended {
                Ok(address)
            } else {
                Err(anyhow!("no such line"))
            }
        });
        let output = || format!("its output:\n{}", self.last_lines(50));
        let address = address.with_context(output)?;
        address.with_context(|| format!("{} ended before; {}", self.name, output()))
    }

    /// Sends a signal; nothing happens if the service has ended already.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Asks for an orderly end.
    pub fn terminate(&self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// Ends it as a crash would, and waits for that.
    pub fn kill9(&self) -> Result<ExitStatus> {
        self.process.kill()
    }

    /// How it ended, or `None` while it runs.
    pub fn exit_status(&self) -> Result<Option<ExitStatus>> {
        self.process.exit_status()
    }

    /// Waits for the end of the service; afterwards [`Self::output`] is complete.
    pub fn wait_exit(&self, deadline: Duration) -> Result<ExitStatus> {
        let status = self.process.wait(deadline)?;
        // A child of the service that lives on keeps the output open: not to be waited for.
        let _ = try_eventually(OUTPUT_DEADLINE, "the end of the output", || {
            self.readers.iter().all(JoinHandle::is_finished)
        });
        Ok(status)
    }

    /// All it wrote so far to stdout and stderr, line by line.
    #[must_use]
    pub fn output(&self) -> String {
        lock(&self.output.text).clone()
    }

    /// The end of [`Self::output`].
    #[must_use]
    pub fn last_lines(&self, count: usize) -> String {
        let output = self.output();
        let lines: Vec<&str> = output.lines().collect();
        lines[lines.len().saturating_sub(count)..].join("\n")
    }
}

#[derive(Debug, Clone)]
struct Output {
    text: Arc<Mutex<String>>,
    log: Arc<Mutex<Option<File>>>,
}

impl Output {
    fn read_from(&self, stream: impl Read + Send + 'static) -> JoinHandle<()> {
        let output = self.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line) + "\n";
                lock(&output.text).push_str(&line);
                if let Some(log) = lock(&output.log).as_mut() {
                    // A full disk must not stop the service by a full pipe.
                    let _ = log.write_all(line.as_bytes());
                }
            }
        })
    }
}

fn listening_address(output: &str, server: &str) -> Option<SocketAddr> {
    output
        .lines()
        .filter(|line| line.contains("listening"))
        .find_map(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            let fields = &line["fields"];
            (fields["message"] == "listening" && fields["server"] == server).then_some(())?;
            fields["address"].as_str()?.parse().ok()
        })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_found_among_other_lines() {
        let output = concat!(
            "listening, but not JSON\n",
            r#"{"fields":{"message":"listening","server":"admin","address":"127.0.0.1:1"}}"#,
            "\n",
            r#"{"fields":{"message":"listening","server":"public","address":"127.0.0.1:2"}}"#,
            "\n",
        );
        assert_eq!(
            listening_address(output, "public"),
            "127.0.0.1:2".parse().ok()
        );
        assert_eq!(
            listening_address(output, "admin"),
            "127.0.0.1:1".parse().ok()
        );
        assert_eq!(listening_address(output, "other"), None);
    }
}
