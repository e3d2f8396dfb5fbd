//! Runs cargo.

use std::env;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use test_support::children::{self, Process};

use crate::interrupt::Interrupt;
use crate::workspace;

/// The services. Their packages, binaries and images are all called so.
pub const SERVICES: [&str; 4] = ["server-b", "server-a", "user-service", "resync"];

const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Cargo in this checkout, with its output on the terminal. Marked by `state_dir`, so that a later run can end it.
pub fn command(state_dir: &Path, arguments: &[&str]) -> Result<Command> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = program(state_dir, Path::new(&cargo))?;
    command.args(arguments);
    Ok(command)
}

/// A program in this checkout, likewise.
pub fn program(state_dir: &Path, program: &Path) -> Result<Command> {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
        .current_dir(workspace::root()?)
        .env(children::MARK, state_dir)
        .stdin(Stdio::null());
    // Set by the cargo that runs us, about this package.
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(|name| {
            name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
        }) {
            command.env_remove(&name);
        }
    }
    Ok(command)
}

/// Builds every program of the workspace, whoever needs which of them, and whoever tests anything names no package in its own
/// calls either: cargo builds a dependency again for each other set of its features.
pub fn build(state_dir: &Path, profile: &str, interrupt: &Interrupt) -> Result<()> {
    println!("Building the services and what tests them …");
    let arguments = ["build", "--profile", profile, "--workspace", "--bins"];
    run(command(state_dir, &arguments)?, interrupt)
}

/// Runs a command to its successful end, or kills it when we are interrupted.
pub fn run(command: Command, interrupt: &Interrupt) -> Result<()> {
    let words = words(&command);
    let status = wait(&children::spawn(command)?, interrupt)?;
    ensure!(status.success(), "{words} failed");
    Ok(())
}

/// Like [`run`], with each line of stdout shown and then handed to `look`; an unsuccessful end is given back.
pub fn run_looking(
    mut command: Command,
    interrupt: &Interrupt,
    mut look: impl FnMut(&str) + Send,
) -> Result<ExitStatus> {
    let process = children::spawn({
        command.stdout(Stdio::piped());
        command
    })?;
    let stdout = process.take_stdout().context("stdout is piped")?;
    thread::scope(|scope| {
        scope.spawn(move || {
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line);
                println!("{line}");
                look(&line);
            }
        });
        wait(&process, interrupt)
    })
}

fn wait(process: &Process, interrupt: &Interrupt) -> Result<ExitStatus> {
    loop {
        if let Some(status) = process.exit_status()? {
            return Ok(status);
        }
        if interrupt.is_set() {
            process.kill()?;
        }
        interrupt.check()?;
        thread::sleep(POLL_INTERVAL);
    }
}

fn words(command: &Command) -> String {
    let arguments = command
        .get_args()
        .skip_while(|argument| *argument != "--")
        .skip(1);
    let words: Vec<_> = arguments.map(std::ffi::OsStr::to_string_lossy).collect();
    words.join(" ")
}
