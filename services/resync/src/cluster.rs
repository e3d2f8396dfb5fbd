//! Calls of the Kubernetes API: a time limit on each, retries while it does not answer, errors that can be read.

use std::future::Future;
use std::time::Duration;

use kube::Client;
use thiserror::Error;
use tokio::time::Instant;

use crate::deadline::Deadline;
use crate::failure::Failure;
use crate::said::Said;

/// The client has no limit of its own.
const CALL: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(1);
/// A Role that was created a moment ago may not be known to the API server yet.
const ROLE_KNOWN_WITHIN: Duration = Duration::from_secs(10);

/// Why a call failed.
#[derive(Debug, Error)]
pub enum CallError {
    #[error("the API server did not answer within {} s", CALL.as_secs())]
    NoAnswer,
    #[error("{}", explain(.0))]
    Kube(#[from] kube::Error),
}

impl CallError {
    /// Someone else changed the object since it was read.
    pub fn is_conflict(&self) -> bool {
        self.status().is_some_and(|code| code == 409)
    }

    /// The role does not allow it.
    pub fn is_forbidden(&self) -> bool {
        self.status().is_some_and(|code| code == 403)
    }

    /// Whether the same call may work a moment later.
    pub fn is_passing(&self) -> bool {
        self.status().is_none_or(|code| code == 429 || code >= 500)
    }

    fn status(&self) -> Option<u16> {
        match self {
            Self::Kube(kube::Error::Api(status)) => Some(status.code),
            _ => None,
        }
    }
}

/// Connects as the pod's `ServiceAccount`, or by the kubeconfig.
pub async fn connect() -> Result<Client, Failure> {
    Client::try_default().await.map_err(|error| {
        Failure::Cluster(format!(
            "no access: neither a kubeconfig nor a mounted ServiceAccount token is usable: {error}"
        ))
    })
}

/// One call within the time limit.
pub async fn call<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, CallError> {
    match tokio::time::timeout(CALL, call).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(CallError::NoAnswer),
    }
}

/// A call that is repeated while the API server does not answer; `what` says what it is for.
pub async fn persist<T, F>(
    what: &str,
    deadline: Deadline,
    mut make: impl FnMut() -> F,
) -> Result<T, Failure>
where
    F: Future<Output = kube::Result<T>>,
{
    let begun = Instant::now();
    let mut said = Said::default();
    loop {
        let error = match call(make()).await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let text = format!("{what}: {error}");
        let may_pass =
            error.is_passing() || (error.is_forbidden() && begun.elapsed() < ROLE_KNOWN_WITHIN);
        if !may_pass || !deadline.pause(RETRY).await {
            return Err(Failure::Cluster(text));
        }
        said.once(&text);
    }
}

/// The message alone of an answer; of other errors all causes.
pub fn explain(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return format!("{} ({})", status.message, status.code);
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let inner = error.to_string();
        if !text.contains(&inner) {
            text = format!("{text}: {inner}");
        }
        cause = error.source();
    }
    text
}
