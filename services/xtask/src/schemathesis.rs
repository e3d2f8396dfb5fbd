//! Schemathesis, which plays what an OpenAPI document promises against the service: installed once from `PyPI` into a
//! virtual environment in the user's cache.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use test_support::servers::packages;

use crate::cargo;
use crate::cluster::tools;
use crate::interrupt::Interrupt;

/// Another one may check more, and so fail without a change here.
const VERSION: &str = "4.32.5";

/// The program, which is installed first unless an earlier run has kept it; `None` where Python, its virtual environments
/// or the package cannot be had.
pub fn binary(interrupt: &Interrupt) -> Result<Option<PathBuf>> {
    let dir = tools::cache_dir()?.join(format!("schemathesis-{VERSION}"));
    let program = dir.join("bin/schemathesis");
    let _entry = tools::lock_entry(&dir)?;
    // The last thing to be written: an installation that was cut is made again.
    let complete = dir.join("complete");
    if complete.exists() {
        return Ok(Some(program));
    }
    if !python_works()
        // The package has no program of its own.
        && (packages::ensure_programs(&[("python3 with venv", "python3-venv")]).is_err() || !python_works())
    {
        return Ok(None);
    }
    println!("Installing Schemathesis {VERSION} from PyPI, once …");
    let _ = fs::remove_dir_all(&dir);
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv"]).arg(&dir);
    let mut install = Command::new(dir.join("bin/pip"));
    install
        .args(["install", "--quiet", "--disable-pip-version-check"])
        .arg(format!("schemathesis=={VERSION}"));
    for step in [venv, install] {
        if let Err(error) = cargo::run(step, interrupt) {
            interrupt.check()?;
            println!("{error:#}");
            return Ok(None);
        }
    }
    fs::write(&complete, "").with_context(|| format!("writing {}", complete.display()))?;
    Ok(Some(program))
}

/// Debian has `python3` without what `venv` needs to install pip.
fn python_works() -> bool {
    let import = ["-c", "import venv, ensurepip"];
    let status = Command::new("python3")
        .args(import)
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}
