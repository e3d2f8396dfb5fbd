//! The programs of the control plane and of the node.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use anyhow::Result;
use test_support::children::{self, Process};

use super::config::NODE_NAME;
use super::node::{NODE_IP, Node, SERVICE_CIDR, log, log_path};

const ETCD_URL: &str = "http://127.0.0.1:2379";

/// One running program.
#[derive(Debug)]
pub struct Component {
    /// Its name, and that of its log.
    pub name: &'static str,
    process: Process,
    log: PathBuf,
}

impl Component {
    fn start(
        node: &Node,
        state: &Path,
        program: &Path,
        name: &'static str,
        arguments: &[String],
    ) -> Result<Self> {
        let mut command = node.command(program);
        command
            .args(arguments)
            .env("HOME", state)
            .stdout(log(state, name)?)
            .stderr(log(state, name)?);
        Ok(Self {
            name,
            process: children::spawn(command)?,
            log: log_path(state, name),
        })
    }

    /// How it ended, with the log to look at, or `None` while it runs.
    pub fn unexpected_end(&self) -> Result<Option<String>> {
        let told = |status: ExitStatus| {
            let log = self.log.display();
            format!("{} ended: {status}; its log is {log}", self.name)
        };
        Ok(self.process.exit_status()?.map(told))
    }
}

/// etcd and the container runtime, which need nobody.
pub fn start_base(node: &Node, state: &Path) -> Result<Vec<Component>> {
    let config = state.join("config/containerd.toml");
    let etcd = arguments(&[
        // A file system in memory: the cluster does not outlive its node.
        ("data-dir", "/run/etcd".as_ref()),
        ("listen-client-urls", ETCD_URL.as_ref()),
        ("advertise-client-urls", ETCD_URL.as_ref()),
        ("listen-peer-urls", "http://127.0.0.1:2380".as_ref()),
        ("log-level", "warn".as_ref()),
    ]);
    let containerd = arguments(&[("config", &config)]);
    Ok(vec![
        Component::start(node, state, Path::new("etcd"), "etcd", &etcd)?,
        Component::start(
            node,
            state,
            Path::new("containerd"),
            "containerd",
            &containerd,
        )?,
    ])
}

/// The API server.
pub fn start_api_server(node: &Node, state: &Path, bin: &Path) -> Result<Component> {
    let pki = state.join("pki");
    let cidr = Path::new(SERVICE_CIDR);
    let arguments = arguments(&[
        ("etcd-servers", ETCD_URL.as_ref()),
        ("advertise-address", NODE_IP.as_ref()),
        ("secure-port", "6443".as_ref()),
        ("service-cluster-ip-range", cidr),
        ("authorization-mode", "RBAC".as_ref()),
        ("client-ca-file", &pki.join("ca.crt")),
        ("tls-cert-file", &pki.join("server.crt")),
        ("tls-private-key-file", &pki.join("server.key")),
        ("kubelet-certificate-authority", &pki.join("ca.crt")),
        ("kubelet-client-certificate", &pki.join("admin.crt")),
        ("kubelet-client-key", &pki.join("admin.key")),
        // No name server knows the node.
        ("kubelet-preferred-address-types", "InternalIP".as_ref()),
        (
            "service-account-issuer",
            "https://kubernetes.default.svc".as_ref(),
        ),
        ("service-account-key-file", &pki.join("tokens.pub")),
        ("service-account-signing-key-file", &pki.join("tokens.key")),
    ]);
    let program = bin.join("kube-apiserver");
    Component::start(node, state, &program, "kube-apiserver", &arguments)
}

/// What follows the API server: controllers, scheduler, kubelet, kube-proxy and the name server.
pub fn start_others(
    node: &Node,
    state: &Path,
    bin: &Path,
    coredns: &Path,
) -> Result<Vec<Component>> {
    let kubeconfig = state.join("kubeconfig");
    let pki = state.join("pki");
    let config = |name: &str| state.join("config").join(name);
    let start = |name, all: &[(&str, &Path)]| {
        Component::start(node, state, &bin.join(name), name, &arguments(all))
    };
    Ok(vec![
        start(
            "kube-controller-manager",
            &[
                ("kubeconfig", &kubeconfig),
                ("leader-elect", "false".as_ref()),
                ("root-ca-file", &pki.join("ca.crt")),
                ("service-account-private-key-file", &pki.join("tokens.key")),
                ("use-service-account-credentials", "false".as_ref()),
            ],
        )?,
        start(
            "kube-scheduler",
            &[
                ("kubeconfig", &kubeconfig),
                ("leader-elect", "false".as_ref()),
            ],
        )?,
        start(
            "kubelet",
            &[
                ("kubeconfig", &kubeconfig),
                ("config", &config("kubelet.yaml")),
                ("hostname-override", NODE_NAME.as_ref()),
                ("node-ip", NODE_IP.as_ref()),
            ],
        )?,
        start("kube-proxy", &[("config", &config("kube-proxy.yaml"))])?,
        Component::start(
            node,
            state,
            &coredns.join("coredns"),
            "coredns",
            &["-conf".to_owned(), config("Corefile").display().to_string()],
        )?,
    ])
}

fn arguments(all: &[(&str, &Path)]) -> Vec<String> {
    let argument = |(name, value): &(&str, &Path)| format!("--{name}={}", value.display());
    all.iter().map(argument).collect()
}
