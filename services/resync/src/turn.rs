//! One run at a time: the turn is a Lease, taken by the one that may run, renewed while it does, given back at its end.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::cluster::{self, CallError};
use crate::deadline::Deadline;
use crate::failure::Failure;
use crate::record::{Record, RecordError, Records};
use crate::said::Said;

/// Between two looks at the Lease of another run.
const POLL: Duration = Duration::from_secs(1);
/// Of giving the Lease back: a renewal that was under way may be in between.
const ATTEMPTS: u32 = 5;

/// Whether a run may take the Lease.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is free, or ours, or of a run that died.
    Take,
    /// That run holds it.
    Wait(String),
}

/// What one run has seen of the Lease. Only how long it has looked at an unchanged Lease counts, by its own clock:
/// the times in the Lease are of other nodes' clocks.
#[derive(Debug, Default)]
pub struct Sight {
    unchanged: Option<(String, Instant)>,
}

impl Sight {
    /// Judges the Lease as it was just read.
    pub fn look(&mut self, lease: &Lease, me: &str, now: Instant) -> Decision {
        let spec = lease.spec.as_ref();
        let holder = spec.and_then(|spec| spec.holder_identity.as_deref());
        let Some(holder) = holder.filter(|holder| !holder.is_empty() && *holder != me) else {
            return Decision::Take;
        };
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        let since = match &self.unchanged {
            Some((seen, since)) if *seen == version => *since,
            _ => {
                self.unchanged = Some((version, now));
                now
            }
        };
        let seconds = spec.and_then(|spec| spec.lease_duration_seconds);
        let duration = Duration::from_secs(seconds.unwrap_or(0).max(1).unsigned_abs().into());
        if now - since >= duration {
            Decision::Take
        } else {
            Decision::Wait(holder.to_owned())
        }
    }

    /// The API server did not answer. The holder may have been unable to renew for as long, so the look begins anew.
    pub fn lost(&mut self) {
        self.unchanged = None;
    }
}

/// The Lease as the run that takes it writes it.
fn taken(mut lease: Lease, me: &str, duration: u16, now: Timestamp) -> Lease {
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    if spec.holder_identity.as_deref() != Some(me) {
        spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
    }
    spec.holder_identity = Some(me.to_owned());
    spec.lease_duration_seconds = Some(duration.into());
    spec.acquire_time = Some(MicroTime(now));
    spec.renew_time = Some(MicroTime(now));
    lease
}

/// What came of the wait.
#[derive(Debug)]
pub enum Turn {
    /// This run's turn.
    Mine(Held),
    /// A sync that began after this run was asked for has succeeded: its record.
    Fulfilled(Record),
}

enum Look {
    Turn(Turn),
    Behind(String),
}

/// The Lease behind which runs queue up.
#[derive(Debug, Clone)]
pub struct Turns {
    pub api: Api<Lease>,
    pub name: String,
    /// Of this run.
    pub identity: String,
    /// Seconds.
    pub duration: u16,
}

impl Turns {
    /// Waits for this run's turn, or for a sync that makes it needless.
    pub async fn wait(
        &self,
        records: &Records,
        begun_at_request: u64,
        deadline: Deadline,
    ) -> Result<Turn, Failure> {
        let mut sight = Sight::default();
        let mut said = Said::default();
        loop {
            match self.look(records, begun_at_request, &mut sight).await {
                Ok(Look::Turn(turn)) => return Ok(turn),
                Ok(Look::Behind(holder)) => said.once(&format!("waiting behind {holder}")),
                Err(error) if error.is_passing() => {
                    sight.lost();
                    said.once(&format!("waiting for this run's turn: {error}"));
                }
                Err(error) => return Err(Failure::Cluster(error.to_string())),
            }
            if !deadline.pause(POLL).await {
                let text = "this run's turn did not come within the time limit";
                return Err(Failure::Queued(text.to_owned()));
            }
        }
    }

    async fn look(
        &self,
        records: &Records,
        begun_at_request: u64,
        sight: &mut Sight,
    ) -> Result<Look, RecordError> {
        let lease = cluster::call(self.api.get(&self.name)).await?;
        // Read after the Lease: a run writes its record before it gives the Lease back.
        let record = records.read().await?;
        if record.fulfils(begun_at_request) {
            return Ok(Look::Turn(Turn::Fulfilled(record)));
        }
        if let Decision::Wait(holder) = sight.look(&lease, &self.identity, Instant::now()) {
            return Ok(Look::Behind(holder));
        }
        let lease = taken(lease, &self.identity, self.duration, Timestamp::now());
        match cluster::call(self.replace(&lease)).await {
            Ok(lease) => Ok(Look::Turn(Turn::Mine(Held::new(self.clone(), lease)))),
            Err(error) if error.is_conflict() => Ok(Look::Behind("another run".to_owned())),
            Err(error) => Err(error.into()),
        }
    }

    async fn replace(&self, lease: &Lease) -> kube::Result<Lease> {
        // Carries the version that was read: of two that write, one gets a conflict.
        let parameters = PostParams::default();
        self.api.replace(&self.name, &parameters, lease).await
    }

    /// Gives the Lease back if it is this run's.
    pub async fn give_back(&self) -> Result<(), Failure> {
        let mut attempt = 1;
        loop {
            match self.try_give_back().await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_conflict() && attempt < ATTEMPTS => attempt += 1,
                Err(error) => return Err(self.failed(&error)),
            }
        }
    }

    async fn try_give_back(&self) -> Result<(), CallError> {
        let mut lease = cluster::call(self.api.get(&self.name)).await?;
        let Some(spec) = lease.spec.as_mut() else {
            return Ok(());
        };
        if spec.holder_identity.as_deref() != Some(&self.identity) {
            return Ok(());
        }
        spec.holder_identity = None;
        cluster::call(self.replace(&lease)).await?;
        Ok(())
    }

    fn failed(&self, error: &CallError) -> Failure {
        Failure::Cluster(format!("Lease {}: {error}", self.name))
    }
}

/// The Lease is this run's, and renewed until this is dropped.
#[derive(Debug)]
pub struct Held {
    renewing: JoinHandle<()>,
    taken_by: oneshot::Receiver<String>,
}

impl Held {
    fn new(turns: Turns, lease: Lease) -> Self {
        let (tell, taken_by) = oneshot::channel();
        let renewing = tokio::spawn(async move {
            let holder = renew(&turns, lease).await;
            // Nobody listens any more when the run has ended.
            let _ = tell.send(holder);
        });
        Self { renewing, taken_by }
    }

    /// Waits until another run has taken the Lease; for ever if that does not happen.
    pub async fn lost(&mut self) -> Failure {
        match (&mut self.taken_by).await {
            Ok(holder) => Failure::Cluster(format!(
                "the Lease was lost to {holder}: this run could not renew it in time"
            )),
            Err(_) => Failure::Cluster("the renewal of the Lease died".to_owned()),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

/// Renews the Lease until another run holds it: who. While the API server is away nobody else can take it either, so
/// that alone is no loss.
async fn renew(turns: &Turns, mut lease: Lease) -> String {
    let pause = Duration::from_secs(turns.duration.into()) / 3;
    loop {
        tokio::time::sleep(pause).await;
        if let Some(spec) = lease.spec.as_mut() {
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        }
        match cluster::call(turns.replace(&lease)).await {
            Ok(renewed) => lease = renewed,
            Err(error) => {
                tracing::warn!("Lease {} not renewed: {error}", turns.name);
                let Ok(current) = cluster::call(turns.api.get(&turns.name)).await else {
                    continue;
                };
                let spec = current.spec.as_ref();
                let holder = spec.and_then(|spec| spec.holder_identity.clone());
                if holder.as_deref() != Some(&turns.identity) {
                    return holder.unwrap_or_else(|| "nobody".to_owned());
                }
                lease = current;
            }
        }
    }
}

#[cfg(test)]
#[path = "turn_tests.rs"]
mod tests;
