//! A cluster with our images on it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use test_support::Http;

use super::world::World;
use crate::cargo;
use crate::cluster::{Cluster, Kubectl, Turn, ensure_can_run, tools};
use crate::images::{self, Engine};
use crate::interrupt::Interrupt;
use crate::workspace::{self, State};

/// The same images under two tags, to upgrade from one to the other.
const TAGS: [&str; 2] = ["e2e-1", "e2e-2"];
/// The client of the load.
const LOAD: &str = "sms-load";

/// See the module's documentation.
pub struct Stage {
    /// What the scenarios play in.
    pub world: World,
    kubeconfig: PathBuf,
    /// Ours, if none was named.
    cluster: Option<Cluster>,
}

impl Stage {
    /// Uses the cluster that `KUBECONFIG` names, or starts one.
    ///
    /// # Errors
    /// [`crate::cluster::CannotRun`] if there is none and this machine cannot run one, by `downcast_ref`.
    pub fn set(state: &State, prefix: Option<&str>, interrupt: &Interrupt) -> Result<Self> {
        let named = env::var_os("KUBECONFIG").filter(|path| !path.is_empty());
        match named {
            Some(kubeconfig) => {
                Self::on_named(state, &PathBuf::from(kubeconfig), prefix, interrupt)
            }
            None => Self::on_throwaway(state, interrupt),
        }
    }

    fn on_named(
        state: &State,
        kubeconfig: &Path,
        prefix: Option<&str>,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let prefix = prefix.context(
            "the cluster of KUBECONFIG pulls its images: name their registry and path by --images",
        )?;
        let kubectl = Kubectl::of_user(kubeconfig, state.dir());
        let values = json!({"image": ours(prefix)?});
        let world = world(state, kubectl, prefix, &values, interrupt)?;
        Ok(Self {
            world,
            kubeconfig: kubeconfig.to_owned(),
            cluster: None,
        })
    }

    fn on_throwaway(state: &State, interrupt: &Interrupt) -> Result<Self> {
        // Before anything is built.
        ensure_can_run(state.dir())?;
        let turn = Turn::wait(interrupt)?;
        let built = build(state, images::PREFIX, interrupt)?;
        let stand_ins = [
            images::RABBITMQ.ensure(state, interrupt)?,
            images::POSTGRES.ensure(state, interrupt)?,
        ];
        let cluster = Cluster::start(state, turn, interrupt)?;
        println!("Loading images …");
        println!(
            "RabbitMQ and PostgreSQL are stand-ins of Debian's packages; the official images were not pulled."
        );
        for archive in &stand_ins {
            cluster.load_archive(archive)?;
        }
        for image in &built.images {
            cluster.load_image(built.engine, image)?;
        }
        let mut values = images::stand_in_values();
        values["image"] = ours(images::PREFIX)?;
        values["image"]["pullPolicy"] = "Never".into();
        let kubectl = cluster.kubectl().clone();
        let world = world(state, kubectl, images::PREFIX, &values, interrupt)?;
        Ok(Self {
            world,
            kubeconfig: cluster.kubeconfig(),
            cluster: Some(cluster),
        })
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> &PathBuf {
        &self.kubeconfig
    }

    /// What to look at when a scenario failed.
    pub fn describe_failure(&self) -> String {
        let ended = self.cluster.as_ref().map(Cluster::check);
        match ended {
            Some(Err(error)) => format!("the cluster does not run any more: {error:#}"),
            Some(Ok(())) | None => self.world.describe_failure(),
        }
    }

    /// Removes what was made.
    pub fn strike(&mut self) -> Result<()> {
        match &mut self.cluster {
            Some(cluster) => cluster.stop(),
            None => self
                .world
                .kubectl
                .run(&[
                    "delete",
                    "namespace",
                    &self.world.namespace,
                    "--ignore-not-found",
                ])
                .map(|_| ()),
        }
    }
}

/// Images in the engine's store, which go when this is dropped: they are of no use to anyone.
struct Built {
    engine: Engine,
    images: Vec<String>,
}

impl Drop for Built {
    fn drop(&mut self) {
        for image in &self.images {
            if let Err(error) = self.engine.remove(image) {
                eprintln!("could not remove the image {image}: {error:#}");
            }
        }
    }
}

fn build(state: &State, prefix: &str, interrupt: &Interrupt) -> Result<Built> {
    let mut built = Built {
        engine: Engine::find()?,
        images: Vec::new(),
    };
    build_images(built.engine, state, prefix, interrupt, |image| {
        built.images.push(image);
    })?;
    Ok(built)
}

/// Builds what the scenarios need: the services under both tags, and the client of the load.
pub fn build_images(
    engine: Engine,
    state: &State,
    prefix: &str,
    interrupt: &Interrupt,
    mut note: impl FnMut(String),
) -> Result<()> {
    cargo::build(state.dir(), "fast", interrupt)?;
    for tag in TAGS {
        let built = images::build(engine, state, "fast", prefix, tag)?;
        built.into_iter().for_each(&mut note);
    }
    let load = format!("{prefix}/{LOAD}:{}", TAGS[0]);
    images::build_one(engine, state, "fast", LOAD, &load)?;
    note(load);
    Ok(())
}

fn world(
    state: &State,
    kubectl: Kubectl,
    prefix: &str,
    values: &Value,
    interrupt: &Interrupt,
) -> Result<World> {
    let throwaway = kubectl.is_throwaway();
    let file = state.join("values.json");
    fs::write(&file, values.to_string()).with_context(|| format!("writing {}", file.display()))?;
    Ok(World {
        kubectl,
        helm: tools::HELM4.ensure(state.dir(), interrupt)?.join("helm"),
        // Its own: on a named cluster others may be at the same.
        namespace: format!("identity-sync-e2e-{}", seconds_since_1970()?),
        chart: workspace::root()?.join("charts/identity-sync"),
        values: file,
        tags: TAGS.map(str::to_owned),
        load_image: format!("{prefix}/{LOAD}:{}", TAGS[0]),
        throwaway,
        interrupt: interrupt.clone(),
        http: Http::new(),
        user: OnceLock::new(),
    })
}

/// The chart's repositories begin with this project's name; what stands before is the registry.
fn ours(prefix: &str) -> Result<Value> {
    let registry = prefix.strip_suffix("/identity-sync");
    let registry = registry
        .context("--images must end in /identity-sync, as the chart's repositories begin so")?;
    Ok(json!({"registry": registry}))
}

fn seconds_since_1970() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())
}
