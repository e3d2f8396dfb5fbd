//! Schemathesis: requests made up from an OpenAPI document, and whether the answers are those that it promises.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::SCHEMATHESIS_VAR;
use crate::servers::random_hex;

/// Drawn requests of an operation, besides the fixed ones that probe each limit of the document. They bound the run: by
/// its time it would try another number each time.
const EXAMPLES: u32 = 20;
/// The same requests each time.
const SEED: u32 = 8;

/// A run over one document.
#[derive(Debug)]
pub struct Schemathesis {
    url: String,
    headers: Vec<(String, String)>,
    config: String,
}

impl Schemathesis {
    /// Of the document at this URL, whose service is at the same address.
    #[must_use]
    pub fn of(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            headers: Vec::new(),
            config: String::new(),
        }
    }

    /// A header of every request, such as the one that authenticates.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Lines of `schemathesis.toml`: what no document can say.
    #[must_use]
    pub fn config(mut self, toml: &str) -> Self {
        toml.clone_into(&mut self.config);
        self
    }

    /// Runs all checks.
    ///
    /// # Errors
    /// Tells what Schemathesis printed, if an answer was not as promised.
    pub fn run(&self) -> Result<()> {
        let program = env::var_os(SCHEMATHESIS_VAR)
            .map(PathBuf::from)
            .with_context(|| format!("`cargo xtask test` sets {SCHEMATHESIS_VAR}"))?;
        // Two runs may share a process.
        let dir = env::temp_dir().join(format!("schemathesis-{}", random_hex()?));
        fs::create_dir_all(&dir).context("a temporary directory")?;
        let config = dir.join("schemathesis.toml");
        fs::write(&config, &self.config).context("writing the configuration")?;
        let mut command = Command::new(program);
        command
            .arg("--config-file")
            .arg(&config)
            .args(["run", &self.url, "--no-color"])
            .args(["--max-examples", &EXAMPLES.to_string()])
            .args(["--seed", &SEED.to_string()])
            // A machine that is busy is no finding.
            .args(["--suppress-health-check", "all"])
            .args(["--request-timeout", "30", "--workers", "1", "--no-shrink"])
            .current_dir(&dir)
            .stdin(Stdio::null());
        for (name, value) in &self.headers {
            command.args(["--header", &format!("{name}: {value}")]);
        }
        let output = command.output().context("running Schemathesis")?;
        // Only what it keeps of its examples is there.
        let _ = fs::remove_dir_all(&dir);
        let told = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            bail!("{told}\n{}", String::from_utf8_lossy(&output.stderr));
        }
        println!("{told}");
        Ok(())
    }
}
