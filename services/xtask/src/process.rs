//! Short commands of other programs.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// Runs a command to its end; gives its stdout, or an error with all that it wrote.
pub fn run(command: &mut Command) -> Result<String> {
    let words = format!("{command:?}");
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("running {words}"))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        bail!("{words} failed ({}): {}", output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
