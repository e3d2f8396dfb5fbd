//! Which pods of the set are done: ready in the cluster, and proven by what server B knows of them.

use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use time::{Duration, OffsetDateTime};

use super::pods::{self, PodSet};
use crate::server_b::{FullSync, Position, Replica};

/// A replica tells of a proof for 3 s after it (three bookmarks), and the report travels. What it tells later than
/// this after the sync's end was proven after the sync; with no changes of users the position alone would not tell.
const PROOF_IS_NEWER_AFTER: Duration = Duration::seconds(4);

/// What each replica must have reached.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    position: Position,
    /// By the database's clock, like the times of the reports.
    heard_after: OffsetDateTime,
}

impl Target {
    /// What a completed sync asks for; `None` if server B does not tell where and when it ended.
    pub fn of(sync: &FullSync) -> Option<Self> {
        Some(Self {
            position: sync.position()?,
            heard_after: sync.finished_at? + PROOF_IS_NEWER_AFTER,
        })
    }
}

/// How the pods of the set stand, each by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// Ready and proven.
    pub proven: Vec<String>,
    /// Not yet, and why.
    pub waiting: Vec<(String, String)>,
    /// Why it is not known yet which pods there will be, or how they stand.
    pub unknown: Option<String>,
}

impl Standing {
    /// Whether nothing is waited for any more.
    pub fn is_done(&self) -> bool {
        self.unknown.is_none() && self.waiting.is_empty()
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = self.proven.len() + self.waiting.len();
        if let Some(unknown) = &self.unknown {
            f.write_str(unknown)?;
            if of == 0 {
                return Ok(());
            }
            f.write_str("; ")?;
        }
        write!(f, "{} of {of} replicas proven", self.proven.len())?;
        for (index, (name, why)) in self.waiting.iter().enumerate() {
            let separator = if index == 0 { ": " } else { "; " };
            write!(f, "{separator}{name} {why}")?;
        }
        Ok(())
    }
}

/// Looks at each pod of the set.
pub fn judge(set: &PodSet, pods: &[Arc<Pod>], replicas: &[Replica], target: &Target) -> Standing {
    let mut standing = Standing::default();
    for (uid, name) in set.iter() {
        let replica = replicas.iter().find(|replica| replica.instance == name);
        match lacks(pods::by_uid(pods, uid), replica, target) {
            None => standing.proven.push(name.to_owned()),
            Some(why) => standing.waiting.push((name.to_owned(), why)),
        }
    }
    standing
}

/// What a pod still lacks.
fn lacks(pod: Option<&Pod>, replica: Option<&Replica>, target: &Target) -> Option<String> {
    let status = pod.and_then(|pod| pod.status.as_ref());
    if !is_ready(status) {
        return Some(format!("is not ready{}", why_not_ready(status)));
    }
    let Some(replica) = replica else {
        return Some("has not reported to server B".to_owned());
    };
    let Some(proven) = replica.proven() else {
        return Some("is not proven".to_owned());
    };
    if proven < target.position {
        return Some(format!(
            "is proven at {proven}, the sync is at {}",
            target.position
        ));
    }
    (replica.received_at < target.heard_after)
        .then(|| "may have been proven before the sync: waiting for a newer report".to_owned())
}

fn is_ready(status: Option<&PodStatus>) -> bool {
    let conditions = status.and_then(|status| status.conditions.as_deref());
    conditions
        .unwrap_or_default()
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The container's own reason (`ImagePullBackOff`) says more than the pod's (`ContainersNotReady`).
fn why_not_ready(status: Option<&PodStatus>) -> String {
    let containers = status.and_then(|status| status.container_statuses.as_deref());
    let waiting = containers.unwrap_or_default().iter().find_map(|container| {
        let state = container.state.as_ref()?.waiting.as_ref()?;
        state.reason.as_deref()
    });
    let conditions = status.and_then(|status| status.conditions.as_deref());
    let scheduled = conditions
        .unwrap_or_default()
        .iter()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    let unscheduled = scheduled.and_then(|condition| condition.message.as_deref());
    match waiting.or(unscheduled) {
        Some(reason) => format!(" ({reason})"),
        None => String::new(),
    }
}

#[cfg(test)]
#[path = "proofs_tests.rs"]
mod tests;
