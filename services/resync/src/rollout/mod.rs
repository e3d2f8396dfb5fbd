//! The replicas of server A that a run waits for: pods as the cluster has them, proofs as server B knows them.

mod pods;
mod proofs;

use std::fmt::Debug;
use std::hash::Hash;
use std::time::Duration;

use futures_util::{StreamExt, pin_mut};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use crate::cluster;
use crate::deadline::Deadline;
use crate::failure::Failure;
use crate::said::Said;
use crate::server_b::ServerB;

pub use pods::PodSet;
pub use proofs::{Standing, Target};

const POLL: Duration = Duration::from_millis(500);
/// Seconds of one watch. A connection that died unnoticed shows 5 s later.
const WATCH: u32 = 20;

/// The Deployment, its `ReplicaSet`s and pods, kept up to date.
#[derive(Debug)]
pub struct Rollout {
    deployments: Store<Deployment>,
    replica_sets: Store<ReplicaSet>,
    pods: Store<Pod>,
    /// One ends only when the cluster refuses it: with the reason.
    watches: JoinSet<String>,
}

impl Rollout {
    /// Begins to watch.
    ///
    /// # Errors
    /// If the Deployment selects its pods by expressions: those cannot be told apart by a label selector of ours.
    pub fn watch(
        client: &Client,
        namespace: &str,
        deployment: &Deployment,
    ) -> Result<Self, Failure> {
        let selector = pods::selector(deployment).map_err(Failure::Cluster)?;
        let name = deployment.metadata.name.as_deref().unwrap_or_default();
        let config = watcher::Config::default().timeout(WATCH);
        let labelled = config.clone().labels(&selector);
        let named = config.fields(&format!("metadata.name={name}"));
        let mut watches = JoinSet::new();
        Ok(Self {
            deployments: reflect(
                Api::namespaced(client.clone(), namespace),
                named,
                &mut watches,
            ),
            replica_sets: reflect(
                Api::namespaced(client.clone(), namespace),
                labelled.clone(),
                &mut watches,
            ),
            pods: reflect(
                Api::namespaced(client.clone(), namespace),
                labelled,
                &mut watches,
            ),
            watches,
        })
    }

    /// Waits until each pod of the newest `ReplicaSet` is ready and proven at the target; `standing` is kept at what
    /// was seen last.
    pub async fn prove(
        &mut self,
        b: &ServerB,
        target: &Target,
        deadline: Deadline,
        standing: &mut Standing,
    ) -> Result<(), Failure> {
        let mut set = PodSet::default();
        let mut said = Said::default();
        loop {
            let looked = self.look(b, target, &mut set, standing).await;
            standing.unknown = looked.err();
            let text = standing.to_string();
            if standing.is_done() {
                tracing::info!("{text}");
                return Ok(());
            }
            said.once(&text);
            tokio::select! {
                in_time = deadline.pause(POLL) => if !in_time {
                    return Err(Failure::Replicas(text));
                },
                Some(ended) = self.watches.join_next() => {
                    let reason = ended.unwrap_or_else(|error| error.to_string());
                    return Err(Failure::Cluster(reason));
                }
            }
        }
    }

    /// # Errors
    /// Why it is not known yet which pods there will be, or how they stand.
    async fn look(
        &self,
        b: &ServerB,
        target: &Target,
        set: &mut PodSet,
        standing: &mut Standing,
    ) -> Result<(), String> {
        let pods = self.pods.state();
        let Some(deployment) = self.deployments.state().into_iter().next() else {
            return Err("the Deployment is not there (yet)".to_owned());
        };
        set.drop_gone(&pods);
        if set.is_unfixed() {
            *set = PodSet::find(&deployment, &self.replica_sets.state(), &pods)?;
            if !set.is_unfixed() {
                tracing::info!("waiting for {set}");
            }
        }
        let replicas = b
            .replicas()
            .await
            .map_err(|error| format!("server B: {error}"))?;
        *standing = proofs::judge(set, &pods, &replicas, target);
        set.lacking()
            .map_or(Ok(()), |lacking| Err(lacking.to_owned()))
    }
}

/// Keeps a store up to date, however often the watch breaks.
fn reflect<K>(api: Api<K>, config: watcher::Config, watches: &mut JoinSet<String>) -> Store<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Default + Eq + Hash + Clone,
{
    let (reader, writer) = reflector::store();
    let events = watcher(api, config).default_backoff().reflect(writer);
    watches.spawn(async move {
        pin_mut!(events);
        while let Some(event) = events.next().await {
            match event {
                Ok(_) => {}
                Err(error) if is_forbidden(&error) => return describe(&error),
                Err(error) => tracing::warn!("{}", describe(&error)),
            }
        }
        "a watch ended".to_owned()
    });
    reader
}

fn is_forbidden(error: &watcher::Error) -> bool {
    let source = std::error::Error::source(error);
    let source = source.and_then(|source| source.downcast_ref::<kube::Error>());
    matches!(source, Some(kube::Error::Api(status)) if status.is_forbidden())
}

fn describe(error: &watcher::Error) -> String {
    let source = std::error::Error::source(error);
    match source.and_then(|source| source.downcast_ref::<kube::Error>()) {
        Some(source) => format!("watch: {}", cluster::explain(source)),
        None => format!("watch: {error}"),
    }
}
