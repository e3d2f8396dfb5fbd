//! kubectl against one cluster.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use test_support::children::{self, Launch};

use crate::process::run;

/// kubectl with the cluster to talk to.
#[derive(Debug, Clone)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    state: PathBuf,
    throwaway: bool,
}

impl Kubectl {
    /// For the throwaway cluster with its state in `dir`: nothing of the user's own settings counts.
    pub fn of_throwaway(program: &Path, dir: &Path) -> Self {
        Self {
            program: program.to_owned(),
            kubeconfig: dir.join("kubeconfig"),
            state: dir.to_owned(),
            throwaway: true,
        }
    }

    /// The user's kubectl, for the cluster of a kubeconfig.
    pub fn of_user(kubeconfig: &Path, state: &Path) -> Self {
        Self {
            program: "kubectl".into(),
            kubeconfig: kubeconfig.to_owned(),
            state: state.to_owned(),
            throwaway: false,
        }
    }

    /// Whether its cluster is a throwaway one.
    pub fn is_throwaway(&self) -> bool {
        self.throwaway
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

    /// Another client, such as Helm, for the same cluster. It ends when we do.
    pub fn of(&self, program: &Path) -> Command {
        let mut command = if self.throwaway {
            let mut command = children::command(program, &self.state, Launch::default());
            command.env("HOME", &self.state);
            command
        } else {
            let mut command = Command::new("setpriv");
            command
                .args(["--pdeathsig", "KILL", "--"])
                .arg(program)
                .env(children::MARK, &self.state);
            command
        };
        command
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(Stdio::null());
        command
    }

    /// Runs kubectl to its end; gives its stdout, or an error with all that it wrote.
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
