//! A real Kubernetes cluster of one node on this machine, thrown away when it stops: the API server with all its
//! controllers, kubelet, containerd, kube-proxy and DNS.
//!
//! The node lives in namespaces of its own, so that nothing of it is left when they end. From the machine, pods and
//! Services are reached by their addresses. The node reaches nothing outside of itself and the machine: images are
//! loaded, not pulled. Network policies are accepted, but no one enforces them.

mod certificates;
mod command;
mod components;
mod config;
mod kubectl;
mod node;
mod requirements;
pub mod tools;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use test_support::try_eventually;

pub use self::command::{Args, run};
use self::components::Component;
use self::config::{CONTAINERD_SOCKET, NODE_NAME};
pub use self::kubectl::Kubectl;
use self::node::Node;
pub use self::node::Turn;
pub use self::requirements::ensure as ensure_can_run;
use crate::images::{self, Engine};
use crate::interrupt::Interrupt;
use crate::process;
use crate::workspace::{self, State};

const BASE_DEADLINE: Duration = Duration::from_secs(20);
const API_DEADLINE: Duration = Duration::from_secs(90);
const NODE_DEADLINE: Duration = Duration::from_secs(90);

/// Why this machine cannot run the cluster: a reason to skip what needs one, and to say so.
#[derive(Debug)]
pub struct CannotRun {
    /// One line each.
    pub missing: Vec<String>,
}

impl fmt::Display for CannotRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a cluster cannot run on this machine: {}",
            self.missing.join("; ")
        )
    }
}

impl std::error::Error for CannotRun {}

/// A running cluster, which is removed when this is dropped.
#[derive(Debug)]
pub struct Cluster {
    dir: PathBuf,
    kubectl: Kubectl,
    // In this order: the components first, and with the node whatever is left.
    components: Vec<Component>,
    node: Node,
}

impl Cluster {
    /// Starts a cluster with its state in `cluster` below the state directory, ready to run pods.
    ///
    /// On a machine that [`ensure_can_run`] has found able to.
    pub fn start(state: &State, turn: Turn, interrupt: &Interrupt) -> Result<Self> {
        let bin = tools::KUBERNETES.ensure(state.dir(), interrupt)?;
        let coredns = tools::COREDNS.ensure(state.dir(), interrupt)?;
        let pause = images::PAUSE.ensure(state, interrupt)?;

        let mut steps = Steps::begin(interrupt);
        let dir = fresh(&state.join("cluster"))?;
        certificates::create(&dir.join("pki"))?;
        config::write(&dir)?;
        steps.done("certificates and configuration")?;
        let node = Node::start(&workspace::root()?, &dir, turn)?;
        let components = components::start_base(&node, &dir)?;
        let kubectl = Kubectl::of_throwaway(&bin.join("kubectl"), &dir);
        let mut cluster = Self {
            dir,
            kubectl,
            components,
            node,
        };
        steps.done("namespaces of the node")?;
        let api_server = components::start_api_server(&cluster.node, &cluster.dir, &bin)?;
        cluster.components.push(api_server);
        cluster.wait(BASE_DEADLINE, "containerd", interrupt, |it| {
            it.containerd(&["version"])
        })?;
        cluster.load_archive(&pause)?;
        steps.done("etcd, containerd")?;
        cluster.wait(API_DEADLINE, "the API server", interrupt, |it| {
            it.kubectl.run(&["get", "--raw=/readyz"])
        })?;
        steps.done("API server")?;
        let others = components::start_others(&cluster.node, &cluster.dir, &bin, &coredns)?;
        cluster.components.extend(others);
        cluster.kubectl.apply(&config::storage(&cluster.dir)?)?;
        cluster.wait_for_node(interrupt)?;
        steps.done("node, scheduler, controllers, DNS")?;
        Ok(cluster)
    }

    /// kubectl for this cluster; also starts Helm and other clients.
    pub fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// Puts an image of the engine's store on the node.
    pub fn load_image(&self, engine: Engine, image: &str) -> Result<()> {
        let archive = self.dir.join("image.tar");
        engine.export(image, &archive)?;
        let loaded = self.load_archive(&archive);
        let _ = fs::remove_file(&archive);
        loaded
    }

    /// Puts the image of a `docker-archive` on the node.
    pub fn load_archive(&self, archive: &Path) -> Result<()> {
        let archive = archive.display().to_string();
        let arguments = ["--namespace=k8s.io", "images", "import", &archive];
        self.containerd(&arguments).map(|_| ())
    }

    /// An error that says which component ended.
    pub fn check(&self) -> Result<()> {
        if self.node.has_ended()? {
            bail!("the node's namespaces have ended");
        }
        for component in &self.components {
            if let Some(end) = component.unexpected_end()? {
                bail!(end);
            }
        }
        Ok(())
    }

    /// Ends everything and removes the volumes; logs and the kubeconfig stay until the next start.
    pub fn stop(&mut self) -> Result<()> {
        // One blow to all of them; what then ends is expected.
        self.node.stop()?;
        self.components.clear();
        for name in ["containerd", "volumes", "var"] {
            let dir = self.dir.join(name);
            if dir.exists() {
                fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
            }
        }
        Ok(())
    }

    fn containerd(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.node.command(Path::new("ctr"));
        command.args(["--address", CONTAINERD_SOCKET]);
        process::run(command.args(arguments))
    }

    fn wait_for_node(&self, interrupt: &Interrupt) -> Result<()> {
        self.wait(NODE_DEADLINE, "the node's registration", interrupt, |it| {
            it.kubectl.run(&["get", "node", NODE_NAME])
        })?;
        let timeout = format!("--timeout={}s", NODE_DEADLINE.as_secs());
        self.kubectl
            .run(&["wait", "--for=condition=Ready", "node", NODE_NAME, &timeout])?;
        // Pods are refused until then.
        let account = ["get", "serviceaccount", "default"];
        self.wait(NODE_DEADLINE, "the first ServiceAccount", interrupt, |it| {
            it.kubectl.run(&account)
        })
    }

    fn wait(
        &self,
        deadline: Duration,
        what: &str,
        interrupt: &Interrupt,
        mut probe: impl FnMut(&Self) -> Result<String>,
    ) -> Result<()> {
        // The outer error ends the wait at once.
        let outcome = try_eventually(deadline, what, || {
            if let Err(error) = interrupt.check().and_then(|()| self.check()) {
                return Ok(Err(error));
            }
            probe(self).map(|_| Ok(()))
        })?;
        outcome.with_context(|| format!("waiting for {what}"))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("could not remove the cluster: {error:#}");
        }
    }
}

/// An empty directory, of which only the path is kept from earlier runs.
fn fresh(dir: &Path) -> Result<PathBuf> {
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("removing {}", dir.display()))?;
    }
    let log = dir.join("log");
    fs::create_dir_all(&log).with_context(|| format!("creating {}", log.display()))?;
    Ok(dir.to_owned())
}

/// Prints what has been done, and how long it took.
struct Steps<'a> {
    interrupt: &'a Interrupt,
    last: Instant,
}

impl<'a> Steps<'a> {
    fn begin(interrupt: &'a Interrupt) -> Self {
        println!("Starting a Kubernetes cluster …");
        Self {
            interrupt,
            last: Instant::now(),
        }
    }

    fn done(&mut self, what: &str) -> Result<()> {
        println!("{:6.1} s  {what}", self.last.elapsed().as_secs_f64());
        self.last = Instant::now();
        self.interrupt.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_missing_is_named() {
        let error = CannotRun {
            missing: vec!["it needs root".into(), "no Go".into()],
        };
        assert!(error.to_string().ends_with("it needs root; no Go"));
    }
}
