//! `cargo xtask chart`: checks the Helm chart, the manifests below `k8s/`, the Tiltfile, and the dashboards and rules of
//! `observability/` without a cluster, and writes what is generated.

mod generated;
mod invariants;
mod observability;
mod schemas;
mod tiltfile;
mod values;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::cluster::tools::{self, Tool};
use crate::interrupt::Interrupt;
use crate::process;
use crate::workspace::{self, State};

/// Below the root.
const CHART: &str = "charts/identity-sync";
/// Versions of Kubernetes whose schemas must take what is rendered: the oldest that the chart supports, and the one of
/// `k8s/cluster`.
const KUBERNETES: [&str; 2] = ["1.31.14", "1.34.4"];
/// Versions of Helm.
const HELMS: [(&str, Tool); 2] = [("Helm 3", tools::HELM3), ("Helm 4", tools::HELM4)];

/// Options of `cargo xtask chart`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write values.schema.json, the table of the chart's README.md, the dashboards, the chart's copies of dashboards and
    /// rules, and what is rendered below k8s/
    #[arg(long)]
    write: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<ExitCode> {
    let interrupt = Interrupt::install()?;
    let state = State::take("chart")?;
    let checks = Checks::new(&state, &interrupt)?;
    if args.write {
        generated::write(&checks)?;
    }
    let sum = checks.run()?;
    println!(
        "{} passed, {} failed, {} skipped",
        sum.passed, sum.failed, sum.skipped
    );
    Ok(ExitCode::from(u8::from(sum.failed > 0)))
}

/// How many checks there were.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Sum {
    /// That found nothing.
    pub passed: u64,
    /// That found something.
    pub failed: u64,
    /// One, for all of them, where they cannot run.
    pub skipped: u64,
}

/// The programs that check, and what they look at.
#[derive(Debug)]
pub struct Checks<'a> {
    root: PathBuf,
    state: &'a State,
    interrupt: &'a Interrupt,
}

impl<'a> Checks<'a> {
    /// Checks of this checkout.
    pub fn new(state: &'a State, interrupt: &'a Interrupt) -> Result<Self> {
        Ok(Self {
            root: workspace::root()?,
            state,
            interrupt,
        })
    }

    /// Runs all of them; each says what it finds.
    ///
    /// # Errors
    /// If a program that checks is not to be had, although there is a Go to build it with.
    pub fn run(&self) -> Result<Sum> {
        println!("Checking the chart, dashboards and rules …");
        let mut sum = Sum::default();
        let mut note = |name: &str, outcome: Result<()>| {
            match outcome {
                Ok(()) => sum.passed += 1,
                Err(error) => {
                    sum.failed += 1;
                    println!("FAILED {name}: {error:#}");
                }
            }
            self.interrupt.check()
        };
        note("Prometheus rules", observability::rules(self))?;
        if !tools::go_works() {
            println!(
                "Skipped: Go 1.26 or later is not installed, with which the programs that check the chart are built."
            );
            sum.skipped = 1;
            return Ok(sum);
        }
        note("dashboards", observability::dashboards(self))?;
        note("generated files", generated::check(self))?;
        note("Tiltfile", tiltfile::check(self))?;
        note("helm-unittest", self.unit_tests())?;
        for (helm, tool) in HELMS {
            let program = self.program(tool)?;
            for values in self.values_files()? {
                let name = format!("{helm}, {}", file_name(&values));
                note(&format!("{name}, lint"), self.lint(&program, &values))?;
                for version in KUBERNETES {
                    let outcome = self.rendered(&program, &values, version);
                    note(&format!("{name}, Kubernetes {version}"), outcome)?;
                }
            }
        }
        for overlay in ["base", "overlays/development", "overlays/production"] {
            note(overlay, self.kustomization(overlay))?;
        }
        Ok(sum)
    }

    /// The path of a tool with one program.
    fn program(&self, tool: Tool) -> Result<PathBuf> {
        let dir = tool.ensure(self.state.dir(), self.interrupt)?;
        let mut programs = fs::read_dir(&dir)?;
        let program = programs
            .next()
            .context("an empty directory of programs")??;
        Ok(program.path())
    }

    fn values_files(&self) -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(self.root.join(CHART).join("ci"))?;
        let mut files = entries
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<Vec<_>>>()?;
        files.sort();
        Ok(files)
    }

    fn unit_tests(&self) -> Result<()> {
        let mut command = Command::new(self.program(tools::HELM_UNITTEST)?);
        succeeds(command.current_dir(&self.root).args(["--strict", CHART]))
    }

    fn lint(&self, helm: &Path, values: &Path) -> Result<()> {
        let mut command = Command::new(helm);
        command
            .current_dir(&self.root)
            .args(["lint", CHART, "--strict"]);
        command.args(["--kube-version", KUBERNETES[0], "-f"]);
        succeeds(command.arg(values))
    }

    fn rendered(&self, helm: &Path, values: &Path, kubernetes: &str) -> Result<()> {
        let mut command = Command::new(helm);
        command
            .current_dir(&self.root)
            .args(["template", "demo", CHART, "--namespace", "sms"]);
        command.args(["--kube-version", kubernetes, "-f"]);
        let rendered = process::run(command.arg(values))?;
        self.conforms(&rendered, kubernetes)
    }

    /// Fails if objects are not as the API has them, or break a rule of ours.
    fn conforms(&self, manifests: &str, kubernetes: &str) -> Result<()> {
        let file = self.state.join("rendered.yaml");
        fs::write(&file, manifests)?;
        let mut command = Command::new(self.program(tools::KUBECONFORM)?);
        command.arg("-strict");
        for schemas in [schemas::ensure(kubernetes)?, schemas::ensure_custom()?] {
            let location = schemas.join("{{.ResourceKind}}{{.KindSuffix}}.json");
            command.arg("-schema-location").arg(location);
        }
        succeeds(command.arg(file))?;
        let documents: Vec<Value> = serde_saphyr::from_multiple(manifests)?;
        let documents: Vec<Value> = documents.into_iter().filter(|it| !it.is_null()).collect();
        invariants::check(&documents)
    }

    fn kustomization(&self, dir: &str) -> Result<()> {
        let mut command = Command::new(self.program(tools::KUSTOMIZE)?);
        command.arg("build").arg(self.root.join("k8s").join(dir));
        let built = process::run(&mut command)?;
        self.conforms(&built, KUBERNETES[0])
    }
}

fn file_name(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

/// Runs a program that tells on stdout what it finds.
fn succeeds(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("running {}", command.get_program().display()))?;
    let found = String::from_utf8_lossy(&output.stdout);
    let more = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "\n{found}{more}");
    Ok(())
}
