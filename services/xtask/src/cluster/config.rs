//! The configuration files of the node's programs: those in `k8s/cluster/config`, with the run's values put in.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use test_support::servers::write_private;

use super::node::{CGROUP, NODE_IP, POD_CIDR};
use crate::images;

/// The node's name.
pub const NODE_NAME: &str = "node";
/// Where containerd listens, on the node.
pub const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";

const CNI_BIN_DIR: &str = "/usr/lib/cni";
/// There is no provisioner, so volumes are made in advance; each is used once.
const VOLUMES: usize = 24;

const CONTAINERD: &str = include_str!("../../../../k8s/cluster/config/containerd.toml");
const CNI: &str = include_str!("../../../../k8s/cluster/config/cni.conflist");
const KUBELET: &str = include_str!("../../../../k8s/cluster/config/kubelet.yaml");
const RESOLV_CONF: &str = include_str!("../../../../k8s/cluster/config/resolv.conf");
const KUBE_PROXY: &str = include_str!("../../../../k8s/cluster/config/kube-proxy.yaml");
const COREFILE: &str = include_str!("../../../../k8s/cluster/config/Corefile");
const KUBECONFIG: &str = include_str!("../../../../k8s/cluster/config/kubeconfig.yaml");
const STORAGE_CLASS: &str = include_str!("../../../../k8s/cluster/config/storage-class.yaml");
const VOLUME: &str = include_str!("../../../../k8s/cluster/config/volume.yaml");

/// Writes all of them below `state`, and makes the directories that they name.
pub fn write(state: &Path) -> Result<()> {
    let config = state.join("config");
    for dir in [&config.join("cni"), &state.join("volume-plugins")] {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    }
    for (name, template) in [
        ("containerd.toml", CONTAINERD),
        ("cni/pods.conflist", CNI),
        ("kubelet.yaml", KUBELET),
        ("resolv.conf", RESOLV_CONF),
        ("kube-proxy.yaml", KUBE_PROXY),
        ("Corefile", COREFILE),
    ] {
        let file = config.join(name);
        fs::write(&file, render(template, state, &[])?)
            .with_context(|| format!("writing {}", file.display()))?;
    }
    let pem = |name: &str| {
        let file = state.join("pki").join(name);
        let content = fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
        anyhow::Ok(STANDARD.encode(content))
    };
    let credentials = [
        ("CA_CERTIFICATE", pem("ca.crt")?),
        ("ADMIN_CERTIFICATE", pem("admin.crt")?),
        ("ADMIN_KEY", pem("admin.key")?),
    ];
    write_private(
        &state.join("kubeconfig"),
        &render(KUBECONFIG, state, &credentials)?,
    )
}

/// The default storage class and the volumes of it, whose directories are made.
pub fn storage(state: &Path) -> Result<String> {
    let mut manifests = STORAGE_CLASS.to_owned();
    for number in 1..=VOLUMES {
        let name = format!("volume-{number}");
        let dir = state.join("volumes").join(&name);
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        manifests += &render(VOLUME, state, &[("VOLUME", name)])?;
    }
    Ok(manifests)
}

/// Replaces each `@NAME@`.
fn render(template: &str, state: &Path, more: &[(&str, String)]) -> Result<String> {
    let state = state
        .to_str()
        .context("the checkout's path is not valid UTF-8")?;
    let values = [
        ("STATE", state),
        ("NODE_IP", NODE_IP),
        ("NODE_NAME", NODE_NAME),
        ("POD_CIDR", POD_CIDR),
        ("CGROUP", CGROUP),
        ("CNI_BIN_DIR", CNI_BIN_DIR),
        ("CONTAINERD_SOCKET", CONTAINERD_SOCKET),
        ("PAUSE_IMAGE", images::PAUSE.image),
    ];
    let known = |wanted: &str| {
        let of_run = more.iter().map(|(name, value)| (*name, value.as_str()));
        let mut all = values.into_iter().chain(of_run);
        all.find_map(|(name, value)| (name == wanted).then_some(value))
    };
    let mut text = String::new();
    // Every other part is between two signs.
    for (number, part) in template.split('@').enumerate() {
        text += if number % 2 == 0 {
            part
        } else {
            known(part).with_context(|| format!("nothing is known for @{part}@"))?
        };
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placeholder_without_a_value_is_an_error() {
        let state = Path::new("/state");
        assert_eq!(
            render("a: @STATE@/x\n", state, &[]).expect("known"),
            "a: /state/x\n"
        );
        assert!(render("a: @NOTHING@\n", state, &[]).is_err());
        let known = [("NOTHING", "1".to_owned())];
        assert!(render("a: @NOTHING@\n", state, &known).is_ok());
    }

    #[test]
    fn every_template_is_complete() {
        for template in [
            CONTAINERD,
            CNI,
            KUBELET,
            RESOLV_CONF,
            KUBE_PROXY,
            COREFILE,
            STORAGE_CLASS,
        ] {
            render(template, Path::new("/state"), &[]).expect("every placeholder has a value");
        }
    }
}
