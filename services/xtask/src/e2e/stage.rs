//! A cluster with our images on it.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use test_support::Http;

use super::world::World;
use crate::cargo;
use crate::cluster::{Cluster, Kubectl, ensure_can_run, tools};
use crate::images::{self, Engine};
use crate::interrupt::Interrupt;
use crate::workspace::{self, State};

/// The same images under two tags, to upgrade from one to the other.
const TAGS: [&str; 2] = ["e2e-1", "e2e-2"];
const NAMESPACE: &str = "identity-sync-e2e";
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
        if let Some(kubeconfig) = named {
            let prefix = prefix.context(
                "the cluster of KUBECONFIG pulls its images: name their registry and path by --images",
            )?;
            let kubeconfig = PathBuf::from(kubeconfig);
            let bin = tools::KUBERNETES.ensure(state.dir(), interrupt)?;
            let kubectl = Kubectl::new(
                bin.join("kubectl"),
                kubeconfig.clone(),
                state.dir().to_owned(),
            );
            let values = json!({"image": ours(prefix)});
            let world = world(state, kubectl, prefix, &values, interrupt)?;
            return Ok(Self {
                world,
                kubeconfig,
                cluster: None,
            });
        }
        // Before anything is built.
        ensure_can_run(state.dir())?;
        let built = build(state, interrupt)?;
        let stand_ins = [
            images::RABBITMQ.ensure(state, interrupt)?,
            images::POSTGRES.ensure(state, interrupt)?,
        ];
        let cluster = Cluster::start(state, interrupt)?;
        println!("Loading images …");
        println!(
            "RabbitMQ and PostgreSQL are stand-ins of Debian's packages; the official images were not pulled."
        );
        for archive in &stand_ins {
            cluster.load_archive(archive)?;
        }
        for (engine, image) in &built {
            cluster.load_image(*engine, image)?;
            engine.remove(image)?;
        }
        let mut image = ours(images::PREFIX);
        image["pullPolicy"] = "Never".into();
        let values = json!({
            "image": image,
            "rabbitmq": {"image": stand_in(images::RABBITMQ.image)},
            "postgresql": {"image": stand_in(images::POSTGRES.image)},
        });
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

    /// Removes what was made.
    pub fn strike(&mut self) -> Result<()> {
        match &mut self.cluster {
            Some(cluster) => cluster.stop(),
            None => self
                .world
                .kubectl
                .run(&["delete", "namespace", NAMESPACE, "--ignore-not-found"])
                .map(|_| ()),
        }
    }
}

/// Images under both tags, and the load.
fn build(state: &State, interrupt: &Interrupt) -> Result<Vec<(Engine, String)>> {
    let engine = Engine::find()?;
    cargo::build(state.dir(), interrupt)?;
    let load = [
        "build",
        "--profile",
        "fast",
        "-p",
        "test-support",
        "--bin",
        LOAD,
    ];
    cargo::run(cargo::command(state.dir(), &load)?, interrupt)?;
    let mut built = Vec::new();
    for tag in TAGS {
        built.extend(images::build(engine, state, "fast", images::PREFIX, tag)?);
    }
    let load = format!("{}/{LOAD}:{}", images::PREFIX, TAGS[0]);
    images::build_one(engine, state, "fast", LOAD, &load)?;
    built.push(load);
    Ok(built.into_iter().map(|image| (engine, image)).collect())
}

fn world(
    state: &State,
    kubectl: Kubectl,
    prefix: &str,
    values: &Value,
    interrupt: &Interrupt,
) -> Result<World> {
    let file = state.join("values.json");
    fs::write(&file, values.to_string()).with_context(|| format!("writing {}", file.display()))?;
    Ok(World {
        kubectl,
        helm: tools::HELM4.ensure(state.dir(), interrupt)?.join("helm"),
        namespace: NAMESPACE.to_owned(),
        chart: workspace::root()?.join("charts/identity-sync"),
        values: file,
        tags: TAGS.map(str::to_owned),
        load_image: format!("{prefix}/{LOAD}:{}", TAGS[0]),
        http: Http::new(),
        user: OnceLock::new(),
    })
}

/// The chart's repositories begin with this project's name; what stands before is the registry.
fn ours(prefix: &str) -> Value {
    json!({"registry": prefix.trim_end_matches("/identity-sync")})
}

fn stand_in(image: &str) -> Value {
    let (name, tag) = image.rsplit_once(':').unwrap_or((image, "latest"));
    let (registry, repository) = name.split_once('/').unwrap_or(("", name));
    json!({"registry": registry, "repository": repository, "tag": tag, "pullPolicy": "Never"})
}
