//! `cargo xtask images`: one image per service, of its binary and what a process needs around it.

mod cached;
mod engine;
mod root;

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

use serde_json::{Value, json};

use self::cached::Recipe;
pub use self::cached::{PAUSE, POSTGRES, RABBITMQ};
pub use self::engine::Engine;
use crate::cargo;
use crate::e2e;
use crate::interrupt::Interrupt;
use crate::process::run;
use crate::workspace::{self, State};

/// Registry and path of images that were made here.
pub const PREFIX: &str = "localhost/identity-sync";

/// Numeric, so that kubelet can see that it is not root.
const USER: u32 = 65_532;

/// Options of `cargo xtask images`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Tag of the images; the chart's default, unless another is given
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
    tag: String,

    /// Registry and path before the services' names
    #[arg(long, default_value = PREFIX)]
    prefix: String,

    /// Build with the profile `release` rather than the one that the tests run
    #[arg(long)]
    release: bool,

    /// Build instead what `cargo xtask e2e --images PREFIX` wants to pull
    #[arg(long, conflicts_with_all = ["tag", "release"])]
    e2e: bool,
}

/// Builds the images and prints their names and sizes.
pub fn command(args: &Args) -> Result<ExitCode> {
    let interrupt = Interrupt::install()?;
    let state = State::take("images")?;
    let profile = if args.release { "release" } else { "fast" };
    let engine = Engine::find()?;
    let mut images = Vec::new();
    if args.e2e {
        let note = |image| images.push(image);
        e2e::build_images(engine, &state, &args.prefix, &interrupt, note)?;
    } else {
        cargo::build(state.dir(), profile, &interrupt)?;
        images = build(engine, &state, profile, &args.prefix, &args.tag)?;
    }
    for image in images {
        let megabytes = engine.size(&image)? / 100_000;
        println!("{image}  {}.{} MB", megabytes / 10, megabytes % 10);
    }
    Ok(ExitCode::SUCCESS)
}

/// Values of the chart that name the stand-ins of RabbitMQ and PostgreSQL.
pub fn stand_in_values() -> Value {
    let image = |recipe: Recipe| {
        let (name, tag) = recipe.image.rsplit_once(':').unwrap_or((recipe.image, ""));
        let (registry, repository) = name.split_once('/').unwrap_or(("", name));
        let image = json!({
            "registry": registry, "repository": repository, "tag": tag, "pullPolicy": "Never",
        });
        json!({"image": image})
    };
    json!({"rabbitmq": image(RABBITMQ), "postgresql": image(POSTGRES)})
}

/// Puts binaries that [`cargo::build`] built into images `<prefix>/<service>:<tag>`; gives their names.
///
/// They are linked with this machine's C library, which goes into the images: these are the very binaries that were
/// tested, and a static build would compile everything a second time.
pub fn build(
    engine: Engine,
    state: &State,
    profile: &str,
    prefix: &str,
    tag: &str,
) -> Result<Vec<String>> {
    let mut images = Vec::new();
    for service in cargo::SERVICES {
        let image = format!("{prefix}/{service}:{tag}");
        build_one(engine, state, profile, service, &image)?;
        images.push(image);
    }
    Ok(images)
}

/// Puts one binary into an image.
pub fn build_one(
    engine: Engine,
    state: &State,
    profile: &str,
    binary: &str,
    image: &str,
) -> Result<()> {
    let source = Source::of_checkout()?;
    let context = state.join("images").join(binary);
    let path = workspace::bin_dir()?.with_file_name(profile).join(binary);
    stage(&context, binary, &path)?;
    let (_, tag) = image.rsplit_once(':').context("the image has no tag")?;
    engine.build(&context, image, &source.labels(binary, tag), source.time)
}

/// Makes the build context of a service.
fn stage(context: &Path, service: &str, binary: &Path) -> Result<()> {
    fresh_dir(context)?;
    root::fill(&context.join("root"), binary, service, USER)?;
    let dockerfile = format!(
        "FROM scratch\nCOPY root/ /\nUSER {USER}:{USER}\nENTRYPOINT [\"/usr/local/bin/{service}\"]\n"
    );
    let file = context.join("Dockerfile");
    fs::write(&file, dockerfile).with_context(|| format!("writing {}", file.display()))
}

/// An empty directory.
fn fresh_dir(dir: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(dir);
    fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))
}

/// What the images are built from.
#[derive(Debug)]
struct Source {
    revision: String,
    /// Seconds since 1970: of the commit, so that equal sources give equal images.
    time: u64,
    created: String,
    url: Option<String>,
}

impl Source {
    fn of_checkout() -> Result<Self> {
        let root = workspace::root()?;
        let git = |arguments: &[&str]| git(&root, arguments);
        let mut revision = git(&["rev-parse", "HEAD"])?;
        if !git(&["status", "--porcelain"])?.is_empty() {
            revision += "-dirty";
        }
        let time = git(&["log", "-1", "--format=%ct"])?;
        let format = "--date=format-local:%Y-%m-%dT%H:%M:%SZ";
        Ok(Self {
            revision,
            time: time.parse().context("the time of the last commit")?,
            created: git(&["log", "-1", format, "--format=%cd"])?,
            url: git(&["config", "--get", "remote.origin.url"])
                .ok()
                .filter(|url| url.starts_with("https://")),
        })
    }

    /// Labels by the conventions of the OCI image specification (annotations.md).
    fn labels(&self, service: &str, tag: &str) -> Vec<(&'static str, String)> {
        let mut labels = vec![
            ("org.opencontainers.image.title", service.to_owned()),
            ("org.opencontainers.image.version", tag.to_owned()),
            ("org.opencontainers.image.revision", self.revision.clone()),
            ("org.opencontainers.image.licenses", "Apache-2.0".to_owned()),
            ("org.opencontainers.image.created", self.created.clone()),
        ];
        if let Some(url) = &self.url {
            labels.push(("org.opencontainers.image.source", url.clone()));
        }
        labels
    }
}

fn git(root: &Path, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("git");
    command.current_dir(root).env("TZ", "UTC0");
    // A checkout may be another user's.
    command.args(["-c", "safe.directory=*"]).args(arguments);
    Ok(run(&mut command)?.trim().to_owned())
}
