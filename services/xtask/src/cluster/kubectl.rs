//! kubectl against one cluster.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::process::run;

/// kubectl with the cluster to talk to.
#[derive(Debug, Clone)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    home: PathBuf,
}

impl Kubectl {
    /// `program` for the cluster of `kubeconfig`; caches go below `home`.
    pub fn new(program: PathBuf, kubeconfig: PathBuf, home: PathBuf) -> Self {
        Self {
            program,
            kubeconfig,
            home,
        }
    }

    /// Where it is.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// A command for kubectl.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.of(&self.program);
        command.args(arguments);
        command
    }

    /// Another client, such as Helm, for the same cluster.
    pub fn of(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", &self.home)
            .env_remove("HTTPS_PROXY")
            .env_remove("https_proxy")
            .stdin(Stdio::null());
        for variable in ["XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"] {
            command.env_remove(variable);
        }
        command
    }

    /// Runs kubectl to its end; gives its stdout, or an error with its stderr.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        run(&mut self.command(arguments))
    }

    /// `kubectl apply --server-side` of manifests.
    pub fn apply(&self, manifests: &str) -> Result<()> {
        let mut command = self.command(&["apply", "--server-side", "--filename=-"]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().context("starting kubectl")?;
        let mut stdin = child.stdin.take().context("stdin is piped")?;
        stdin.write_all(manifests.as_bytes())?;
        drop(stdin);
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "kubectl apply failed: {}",
            said.trim()
        );
        Ok(())
    }
}
