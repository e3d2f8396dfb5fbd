//! Private servers with all their state below one directory, which never touch a system instance.

mod collector;
mod management;
pub mod packages;
mod postgres;
mod prometheus;
mod rabbitmq;
mod state_dir;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
pub use collector::{Collector, ExportedSpan};
pub use management::Management;
pub use postgres::{Postgres, PostgresOptions, psql};
pub use prometheus::{Prometheus, PrometheusOptions, Target};
pub(crate) use rabbitmq::amqp_url;
pub use rabbitmq::{RabbitMq, RabbitMqOptions};
pub use state_dir::{free_port, kept_port, random, random_hex, write_private};

/// The user that the private servers know, with a random password kept in the state directory.
pub const USER: &str = "identity";

/// PEM files of a server's TLS identity.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The certificate chain that the server shows.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authority that signed it.
    pub authority: PathBuf,
}

/// A log file that is added to.
fn append(log: &Path) -> Result<fs::File> {
    let file = fs::OpenOptions::new().create(true).append(true).open(log);
    file.with_context(|| format!("opening {}", log.display()))
}

/// The last lines of a log, for an error message.
fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
