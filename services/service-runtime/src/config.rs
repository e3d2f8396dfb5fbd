//! Configuration groups shared by the services: flags that read the environment.

use std::env;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::{BoolishValueParser, StyledStr};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, Args, Command, Parser, ValueEnum};
use secrecy::SecretString;

/// What is logged by commands that answer on the terminal, unless LOG says otherwise.
const QUIET: &str = "warn";

/// How to reach RabbitMQ.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "RabbitMQ")]
pub struct AmqpArgs {
    /// URL of the broker, amqp:// or amqps://, with user, password and vhost
    #[arg(
        long,
        env = "RABBITMQ_URL",
        default_value = "amqp://guest:guest@rabbitmq:5672/",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub rabbitmq_url: SecretString,

    /// PEM file with the certificate authorities that amqps:// trusts besides the system's
    #[arg(long, env = "RABBITMQ_CA_FILE", value_name = "FILE")]
    pub rabbitmq_ca_file: Option<PathBuf>,
}

/// How to reach PostgreSQL.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "PostgreSQL")]
pub struct DatabaseArgs {
    /// URL of the database, postgres://user:password@host:port/name; TLS by `?sslmode=verify-full&sslrootcert=FILE`
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: SecretString,

    /// Connections that one process opens at most
    #[arg(long, env = "DATABASE_MAX_CONNECTIONS", default_value_t = 20, value_name = "N",
          value_parser = clap::value_parser!(u32).range(4..=1000))]
    pub database_max_connections: u32,
}

/// Who brings the schema up to date.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "PostgreSQL")]
pub struct MigrationArgs {
    /// Bring the schema up to date first; `--migrate=false` where a job of its own does it
    #[arg(
        long,
        env = "MIGRATE",
        default_value = "true",
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true,
        action = ArgAction::Set,
        value_parser = BoolishValueParser::new(),
        value_name = "BOOL"
    )]
    pub migrate: bool,
}

/// Where probes and metrics are served.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Server")]
pub struct AdminArgs {
    /// Address of /livez, /readyz, /status and /metrics; keep it inside the cluster
    #[arg(
        long,
        env = "ADMIN_LISTEN",
        default_value = "0.0.0.0:9090",
        value_name = "ADDRESS"
    )]
    pub admin_listen: SocketAddr,
}

/// Where the API is served.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Server")]
pub struct ListenArgs {
    /// Address of the API
    #[arg(
        long,
        env = "LISTEN",
        default_value = "0.0.0.0:8080",
        value_name = "ADDRESS"
    )]
    pub listen: SocketAddr,
}

/// Logs and traces.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Telemetry")]
pub struct TelemetryArgs {
    /// What is logged: a level, or directives such as `info,server_a=debug`
    #[arg(
        long,
        env = "LOG",
        default_value = "info",
        global = true,
        value_name = "FILTER"
    )]
    pub log: String,

    /// How logs are written
    #[arg(
        long,
        env = "LOG_FORMAT",
        default_value = "auto",
        global = true,
        value_name = "FORMAT"
    )]
    pub log_format: LogFormat,
}

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise
    Auto,
    /// One JSON object a line
    Json,
    /// For people
    Text,
}

/// Parses the command line and the environment; exits when asked for help or not understood. What `answers` on the terminal
/// logs little, unless LOG says otherwise.
pub fn command_line<C: Parser>(
    answers: impl FnOnce(&C) -> bool,
    telemetry: impl FnOnce(&mut C) -> &mut TelemetryArgs,
) -> C {
    let command = C::command();
    let matches = command
        .clone()
        .try_get_matches()
        .unwrap_or_else(|error| with_variables(error, command, |name| env::var(name).ok()).exit());
    let mut cli = C::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let log_is_default = matches.value_source("log") == Some(ValueSource::DefaultValue);
    if log_is_default && answers(&cli) {
        QUIET.clone_into(&mut telemetry(&mut cli).log);
    }
    cli
}

/// clap names options alone, and where a service runs in a container nobody has written one: this adds the variables.
fn with_variables(
    mut error: clap::Error,
    mut command: Command,
    variable: impl Fn(&str) -> Option<String>,
) -> clap::Error {
    use ErrorKind::{InvalidValue, MissingRequiredArgument, ValueValidation};
    if ![InvalidValue, MissingRequiredArgument, ValueValidation].contains(&error.kind()) {
        return error;
    }
    let named = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(option)) => vec![option.clone()],
        Some(ContextValue::Strings(options)) => options.clone(),
        _ => return error,
    };
    let value = error
        .get(ContextKind::InvalidValue)
        .map(ToString::to_string);
    // Before that an option cannot be written out.
    command.build();
    let tips = named.iter().filter_map(|option| {
        let name = variable_of(&command, option)?;
        match &value {
            None => Some(format!("{option} can be set as {name} in the environment")),
            // Given on the command line, the variable would not have been looked at.
            Some(value) => (variable(&name).as_ref() == Some(value))
                .then(|| format!("{name} in the environment is what {option} was taken from")),
        }
    });
    let tips: Vec<StyledStr> = tips.map(StyledStr::from).collect();
    if !tips.is_empty() {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
    }
    error
}

/// The variable of an option, of the command or of one below it.
fn variable_of(command: &Command, option: &str) -> Option<String> {
    let named = |argument: &&Arg| argument.to_string() == option;
    match command.get_arguments().find(named).and_then(Arg::get_env) {
        Some(name) => name.to_str().map(str::to_owned),
        None => command
            .get_subcommands()
            .find_map(|it| variable_of(it, option)),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(subcommand)]
        command: Sub,
    }

    #[derive(Debug, clap::Subcommand)]
    enum Sub {
        Serve(DatabaseArgs),
    }

    fn told(arguments: &[&str], value: &str) -> String {
        let command = Cli::command();
        let arguments = ["test", "serve"].iter().chain(arguments);
        let error = command.clone().try_get_matches_from(arguments);
        let error = error.expect_err("it is not understood");
        let variable = |name: &str| (name == "DATABASE_MAX_CONNECTIONS").then(|| value.to_owned());
        with_variables(error, command, variable).to_string()
    }

    #[test]
    fn a_value_from_the_environment_is_told_with_its_variable() {
        let arguments = ["--database-url=x", "--database-max-connections=3"];
        let text = told(&arguments, "3");
        assert!(
            text.contains("DATABASE_MAX_CONNECTIONS in the environment"),
            "{text}"
        );
        let text = told(&arguments, "20");
        assert!(!text.contains("DATABASE_MAX_CONNECTIONS"), "{text}");
    }

    #[test]
    fn what_is_missing_is_told_with_its_variable() {
        let text = told(&[], "3");
        assert!(
            text.contains("can be set as DATABASE_URL in the environment"),
            "{text}"
        );
    }
}
