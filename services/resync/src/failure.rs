//! Why a run failed, and the exit code that says so.

use std::process::ExitCode;

use thiserror::Error;

/// Exit code of a command line or a setting that is not understood; clap's own too.
pub const USAGE: u8 = 2;

/// For `--help`.
pub const EXIT_CODES: &str = "Exit codes of `run`:
  0  the sync ended and every replica of the newest ReplicaSet has proven itself
  1  the full sync failed, or did not end in time
  2  the command line or a setting is wrong
  3  server B did not answer, or refused, until the time limit
  4  not every replica was ready and proven within the time limit
  5  the Kubernetes API did not answer or refused, or the Lease was lost
  6  another run held the Lease until the time limit
  7  interrupted by SIGTERM or SIGINT";

/// Why a run failed.
#[derive(Debug, Error)]
pub enum Failure {
    /// The full sync failed or did not end in time.
    #[error("full sync: {0}")]
    Sync(String),
    /// A setting that clap could not check.
    #[error("{0}")]
    Usage(String),
    /// Server B did not answer, or refused.
    #[error("server B: {0}")]
    ServerB(String),
    /// Replicas that are not ready or not proven.
    #[error("replicas: {0}")]
    Replicas(String),
    /// The Kubernetes API did not answer, or refused.
    #[error("Kubernetes: {0}")]
    Cluster(String),
    /// Another run held the Lease.
    #[error("queue: {0}")]
    Queued(String),
    /// SIGTERM or SIGINT.
    #[error("stopped by a signal {0}")]
    Interrupted(String),
}

impl Failure {
    /// See [`EXIT_CODES`].
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Sync(_) => 1,
            Self::Usage(_) => USAGE,
            Self::ServerB(_) => 3,
            Self::Replicas(_) => 4,
            Self::Cluster(_) => 5,
            Self::Queued(_) => 6,
            Self::Interrupted(_) => 7,
        })
    }

    /// How the result names it.
    #[must_use]
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Interrupted(_) => "interrupted",
            _ => "failed",
        }
    }
}
