//! `cargo xtask auth-event`: plays the auth-service beside `cargo xtask up`.

use std::env;
use std::fs;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::workspace;

/// Options of `cargo xtask auth-event`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Events to publish, repetitions included
    #[arg(long, default_value_t = 1, value_name = "N")]
    count: u64,

    /// Share of them that repeat an earlier one
    #[arg(long, default_value_t = 0, value_name = "P", value_parser = clap::value_parser!(u64).range(0..=99))]
    duplicates_percent: u64,

    /// Messages besides that can never become a reference
    #[arg(long, default_value_t = 0, value_name = "N")]
    malformed: u64,

    /// Id of the first user, from which all its data follow; new users each time if not given
    #[arg(long, value_name = "USER_ID", value_parser = clap::value_parser!(i64).range(0..))]
    first_id: Option<i64>,
}

/// Publishes to the broker of the running `cargo xtask up`, or of `RABBITMQ_URL` where none runs.
pub fn run(args: &Args) -> Result<ExitCode> {
    let mut arguments = vec![
        ("--count", args.count.to_string()),
        ("--duplicates-percent", args.duplicates_percent.to_string()),
        ("--malformed", args.malformed.to_string()),
    ];
    if let Some(id) = args.first_id {
        arguments.push(("--first-id", id.to_string()));
    }
    println!("{}", publish(&rabbitmq_url()?, &arguments)?.trim_end());
    Ok(ExitCode::SUCCESS)
}

/// Runs user-service's development command, so that this program needs no AMQP of its own; gives what it printed.
pub fn publish(rabbitmq_url: &str, arguments: &[(&str, String)]) -> Result<String> {
    let program = workspace::bin_dir()?.join("user-service");
    let mut command = Command::new(&program);
    command.arg("auth-events");
    for (flag, value) in arguments {
        command.args([flag, value.as_str()]);
    }
    let output = command
        .env("RABBITMQ_URL", rabbitmq_url)
        .stdin(Stdio::null())
        .output()
        .with_context(|| {
            let program = program.display();
            format!("cannot run {program}, which `cargo xtask up` builds")
        })?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "user-service auth-events: {}",
        error.trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn rabbitmq_url() -> Result<String> {
    let file = workspace::root()?.join("target/up/env");
    let running = fs::read_to_string(file)
        .ok()
        .and_then(|lines| shell_variable(&lines, "RABBITMQ_URL"));
    running
        .or_else(|| env::var("RABBITMQ_URL").ok())
        .context("`cargo xtask up` does not run, and RABBITMQ_URL is not set")
}

/// A value of target/up/env, as the shell reads it.
fn shell_variable(lines: &str, name: &str) -> Option<String> {
    let quoted = lines
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
    let inner = quoted.strip_prefix('\'')?.strip_suffix('\'')?;
    Some(inner.replace(r"'\''", "'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_read_as_the_shell_does() {
        let lines = "USER_SERVICE_URL='http://x'\nRABBITMQ_URL='amqp://u:it'\\''s@h/'\n";
        let read = |name| shell_variable(lines, name);
        assert_eq!(read("RABBITMQ_URL").as_deref(), Some("amqp://u:it's@h/"));
        assert_eq!(read("URL"), None);
    }
}
