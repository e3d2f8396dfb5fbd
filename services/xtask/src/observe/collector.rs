//! The OpenTelemetry Collector: built once from `observability/collector`, whose go.mod and go.sum pin all of it.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::cargo;
use crate::cluster::tools;
use crate::interrupt::Interrupt;
use crate::workspace;

/// The module whose version the collector calls its own.
const MODULE: &str = "go.opentelemetry.io/collector/otelcol";
const SOURCES: [&str; 3] = ["main.go", "go.mod", "go.sum"];

/// The program, which is built first unless an earlier run has kept it; `None` where there is neither it nor Go.
pub fn binary(state_dir: &Path, interrupt: &Interrupt) -> Result<Option<PathBuf>> {
    let (sources, version) = (sources()?, version()?);
    let program = tools::cache_dir()?.join(format!("otelcol-{version}-{:08x}", digest(&sources)?));
    let _entry = tools::lock_entry(&program)?;
    if program.exists() {
        return Ok(Some(program));
    }
    if !tools::go_works() {
        return Ok(None);
    }
    println!("Building the OpenTelemetry Collector {version} from its Go modules, once …");
    let partial = tools::partial(&program);
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--", "nice", "go", "build"])
        .args(["-trimpath", "-buildvcs=false", "-ldflags"])
        .arg(format!("-s -w -X main.version={version}"))
        .arg("-o")
        .arg(&partial)
        .arg(".")
        .env("CGO_ENABLED", "0")
        .env(test_support::children::MARK, state_dir)
        .current_dir(&sources);
    cargo::run(command, interrupt)?;
    fs::rename(&partial, &program).with_context(|| format!("creating {}", program.display()))?;
    Ok(Some(program))
}

/// Where the configurations are.
pub fn config_dir() -> Result<PathBuf> {
    Ok(workspace::root()?.join("observability"))
}

fn sources() -> Result<PathBuf> {
    Ok(config_dir()?.join("collector"))
}

fn version() -> Result<String> {
    let file = sources()?.join("go.mod");
    let go_mod =
        fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    let version = tools::required_version(&go_mod, MODULE);
    let version = version.with_context(|| format!("{} requires no {MODULE}", file.display()))?;
    Ok(version.trim_start_matches('v').to_owned())
}

/// Tells one state of the sources from another; a machine that builds once too often does no harm.
fn digest(sources: &Path) -> Result<u32> {
    let mut hasher = DefaultHasher::new();
    for name in SOURCES {
        let file = sources.join(name);
        let content = fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
        content.hash(&mut hasher);
    }
    #[expect(clippy::cast_possible_truncation, reason = "half of a hash is enough")]
    Ok(hasher.finish() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_collector_is_pinned() {
        let version = version().expect("go.mod names it");
        assert_eq!(version.split('.').count(), 3, "{version}");
    }
}
