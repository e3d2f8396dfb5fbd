//! Which pods a run waits for: those of the Deployment's newest `ReplicaSet`, once the sync has ended and the rollout has
//! made all that the Deployment wants. Pods that come later fill themselves from their own snapshot.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The Deployment's controller numbers each template, and writes the current one's number on the Deployment too.
const REVISION: &str = "deployment.kubernetes.io/revision";

/// Pods, by uid: a pod of the same name later would be another one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodSet {
    /// Names, in the order of the uids.
    names: BTreeMap<String, String>,
    /// What the cluster has still to make; a fixed set lacks nothing.
    lacking: Option<String>,
    /// The Deployment wants none: an empty set is what it should be.
    none_wanted: bool,
}

impl PodSet {
    /// The pods of the newest `ReplicaSet`, as far as they are there: fixed if that is all of them.
    ///
    /// # Errors
    /// What has to happen in the cluster before it can be told.
    pub fn find(
        deployment: &Deployment,
        replica_sets: &[Arc<ReplicaSet>],
        pods: &[Arc<Pod>],
    ) -> Result<Self, String> {
        let newest = newest(deployment, replica_sets)?;
        let names: BTreeMap<_, _> = pods
            .iter()
            .filter(|pod| is_owned_by(&pod.metadata, &newest.metadata) && is_active(pod))
            .map(|pod| (uid(&pod.metadata).to_owned(), pod_name(pod).to_owned()))
            .collect();
        let spec = deployment.spec.as_ref();
        // Both numbers default to 1. A rollout raises the set's step by step to the Deployment's, unless it is paused.
        let of_deployment = spec.and_then(|spec| spec.replicas).unwrap_or(1);
        let of_set = newest.spec.as_ref().and_then(|spec| spec.replicas);
        let of_set = of_set.unwrap_or(1);
        let is_paused = spec.and_then(|spec| spec.paused) == Some(true);
        let wanted = if is_paused { of_set } else { of_deployment };
        let all_there = usize::try_from(wanted).is_ok_and(|wanted| names.len() >= wanted);
        let lacking = (of_set != wanted || !all_there).then(|| {
            let name = newest.metadata.name.as_deref().unwrap_or_default();
            let why = why_not_created(newest);
            format!(
                "ReplicaSet {name} has {} of {wanted} pods{why}",
                names.len()
            )
        });
        Ok(Self {
            names,
            lacking,
            none_wanted: wanted == 0,
        })
    }

    /// Whether it is still to be found which pods are waited for: at first, and when all that were are gone.
    pub fn is_unfixed(&self) -> bool {
        self.lacking.is_some() || (self.names.is_empty() && !self.none_wanted)
    }

    /// What the cluster has still to make.
    pub fn lacking(&self) -> Option<&str> {
        self.lacking.as_deref()
    }

    /// Pods that were deleted or evicted leave the set.
    pub fn drop_gone(&mut self, pods: &[Arc<Pod>]) {
        self.names.retain(|uid, name| {
            let stays = by_uid(pods, uid).is_some_and(is_active);
            if !stays {
                tracing::info!("pod {name} is gone: not waited for any more");
            }
            stays
        });
    }

    /// Uids and names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let names = self.names.iter();
        names.map(|(uid, name)| (uid.as_str(), name.as_str()))
    }
}

impl fmt::Display for PodSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.iter().map(|(_, name)| name).collect();
        match names.len() {
            0 => f.write_str("no pod: the Deployment wants none"),
            count => write!(f, "{count} pods: {}", names.join(", ")),
        }
    }
}

/// The label selector of the Deployment's pods, which its `ReplicaSet`s carry too.
pub fn selector(deployment: &Deployment) -> Result<String, String> {
    let selector = deployment.spec.as_ref().map(|spec| &spec.selector);
    let labels = selector.and_then(|selector| selector.match_labels.as_ref());
    let labels = labels.filter(|labels| !labels.is_empty());
    let labels = labels.ok_or("the Deployment's spec.selector has no matchLabels")?;
    let pairs: Vec<String> = labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    Ok(pairs.join(","))
}

/// The pod with this uid.
pub fn by_uid<'a>(pods: &'a [Arc<Pod>], uid: &str) -> Option<&'a Pod> {
    let pod = pods.iter().find(|pod| self::uid(&pod.metadata) == uid);
    pod.map(Arc::as_ref)
}

/// The `ReplicaSet` of the Deployment's current template.
fn newest<'a>(
    deployment: &Deployment,
    replica_sets: &'a [Arc<ReplicaSet>],
) -> Result<&'a ReplicaSet, String> {
    let generation = deployment.metadata.generation.unwrap_or(0);
    let observed = deployment.status.as_ref();
    let observed = observed.and_then(|status| status.observed_generation);
    if observed.unwrap_or(0) < generation {
        return Err(format!(
            "the Deployment's controller has not taken in generation {generation} yet"
        ));
    }
    let revision = revision(&deployment.metadata).unwrap_or_default();
    let newest = replica_sets.iter().find(|set| {
        is_owned_by(&set.metadata, &deployment.metadata)
            && self::revision(&set.metadata) == Some(revision)
    });
    newest
        .map(Arc::as_ref)
        .ok_or_else(|| format!("there is no ReplicaSet of revision {revision} yet"))
}

fn revision(metadata: &ObjectMeta) -> Option<&str> {
    let annotations = metadata.annotations.as_ref()?;
    annotations.get(REVISION).map(String::as_str)
}

fn is_owned_by(metadata: &ObjectMeta, owner: &ObjectMeta) -> bool {
    let owners = metadata.owner_references.as_deref().unwrap_or_default();
    owners
        .iter()
        .any(|reference| reference.controller == Some(true) && reference.uid == uid(owner))
}

/// As the `ReplicaSet`'s controller counts: neither being deleted nor at an end.
fn is_active(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Failed" | "Succeeded"))
}

/// A quota or an admission rule, for instance.
fn why_not_created(replica_set: &ReplicaSet) -> String {
    let status = replica_set.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref());
    let failure = conditions
        .unwrap_or_default()
        .iter()
        .find(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True");
    let message = failure.and_then(|condition| condition.message.as_deref());
    message.map_or(String::new(), |message| format!(": {message}"))
}

fn uid(metadata: &ObjectMeta) -> &str {
    metadata.uid.as_deref().unwrap_or_default()
}

fn pod_name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

#[cfg(test)]
#[path = "pods_tests.rs"]
mod tests;
