//! The Tiltfile, run by a Starlark interpreter with Tilt's functions replaced by ones that do nothing: Tilt itself is on
//! no package registry. Finds wrong syntax and unknown names, not wrong arguments.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::Checks;
use crate::cluster::tools;
use crate::process;

/// Tilt's functions that the Tiltfile uses.
const FUNCTIONS: [&str; 10] = [
    "allow_k8s_contexts",
    "blob",
    "docker_build",
    "k8s_resource",
    "k8s_yaml",
    "kustomize",
    "local_resource",
    "run",
    "sync",
    "update_settings",
];
const CONSTANTS: &str = "TRIGGER_MODE_MANUAL = None\n";

/// Runs it.
pub fn check(checks: &Checks<'_>) -> Result<()> {
    let path = checks.root.join("Tiltfile");
    let tiltfile = fs::read_to_string(&path).context("reading Tiltfile")?;
    let mut program = CONSTANTS.to_owned();
    for name in FUNCTIONS {
        writeln!(program, "def {name}(*args, **kwargs): pass")?;
    }
    program.push_str(&tiltfile);
    let file = checks.state.join("Tiltfile.star");
    fs::write(&file, program)?;
    let mut command = Command::new(checks.program(tools::STARLARK)?);
    process::run(command.arg("-globalreassign").arg(file)).map(drop)
}
