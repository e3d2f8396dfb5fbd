//! Images that depend on nothing in this repository but their recipe: archives kept in the user's cache directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};
use test_support::servers::packages;

use super::Engine;
use super::fresh_dir;
use crate::cargo;
use crate::cluster::tools::{cache_dir, lock_entry, partial};
use crate::interrupt::Interrupt;
use crate::workspace::{self, State};

/// Debian's release that the stand-ins are made of.
const RELEASE: &str = "trixie";
/// Left out: documentation, and PostgreSQL's JIT compiler, which it works without.
const LEFT_OUT: [&str; 7] = [
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/locale/*",
    "/usr/lib/*/libLLVM*",
    "/usr/lib/llvm-*",
    "/usr/lib/postgresql/*/lib/bitcode/*",
    "/usr/lib/postgresql/*/lib/llvmjit*",
];

/// How such an image is made.
#[derive(Debug, Clone, Copy)]
pub struct Recipe {
    /// The image's name.
    pub image: &'static str,
    /// Below `k8s/cluster`: its Dockerfile, and what the rest is made of.
    dir: &'static str,
    /// Adds to a copy of that directory what the Dockerfile wants to copy.
    prepare: fn(&Path, &State, &Interrupt) -> Result<()>,
}

/// The process that holds a pod's namespaces.
pub const PAUSE: Recipe = Recipe {
    image: "localhost/identity-sync/pause:1",
    dir: "pause",
    prepare: compile_pause,
};

/// RabbitMQ of Debian's packages, with the user, paths and variables of the official image.
pub const RABBITMQ: Recipe = Recipe {
    image: "localhost/identity-sync/rabbitmq:stand-in",
    dir: "stand-ins/rabbitmq",
    prepare: install_debian,
};

/// PostgreSQL of Debian's packages, with the user, paths and variables of the official image.
pub const POSTGRES: Recipe = Recipe {
    image: "localhost/identity-sync/postgres:stand-in",
    dir: "stand-ins/postgres",
    prepare: install_debian,
};

impl Recipe {
    /// The archive of the image, which is made first unless an earlier run has kept it.
    pub fn ensure(&self, state: &State, interrupt: &Interrupt) -> Result<PathBuf> {
        let recipe = workspace::root()?.join("k8s/cluster").join(self.dir);
        let name = recipe.file_name().unwrap_or_default().display();
        let archive = cache_dir()?.join(format!("image-{name}-{}.tar", self.hash(&recipe)?));
        let _entry = lock_entry(&archive)?;
        if archive.exists() {
            return Ok(archive);
        }
        println!("Making the image {}, once …", self.image);
        let began = Instant::now();
        let context = state.join("images").join(self.dir);
        fresh_dir(&context)?;
        for file in files(&recipe)? {
            let to = context.join(file.file_name().unwrap_or_default());
            fs::copy(&file, to).with_context(|| format!("copying {}", file.display()))?;
        }
        (self.prepare)(&context, state, interrupt)?;
        let engine = Engine::find()?;
        engine.build(&context, self.image, &[], 0)?;
        let partial = partial(&archive);
        engine.export(self.image, &partial)?;
        engine.remove(self.image)?;
        fs::rename(&partial, &archive)
            .with_context(|| format!("creating {}", archive.display()))?;
        let _ = fs::remove_dir_all(&context);
        println!("Made it in {:.0} s.", began.elapsed().as_secs_f64());
        Ok(archive)
    }

    /// Of everything that the image depends on, but for the packages' newest versions.
    fn hash(&self, recipe: &Path) -> Result<String> {
        let mut hash = Sha256::new();
        hash.update(format!("{RELEASE} {LEFT_OUT:?} {}", self.image));
        for file in files(recipe)? {
            hash.update(file.file_name().unwrap_or_default().as_encoded_bytes());
            hash.update(fs::read(&file).with_context(|| format!("reading {}", file.display()))?);
        }
        let digest = hash.finalize();
        let hex: Vec<String> = digest
            .iter()
            .take(8)
            .map(|it| format!("{it:02x}"))
            .collect();
        Ok(hex.concat())
    }
}

/// Files of a directory, sorted.
fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
    let mut files = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

fn compile_pause(context: &Path, state: &State, interrupt: &Interrupt) -> Result<()> {
    let root = context.join("root");
    fs::create_dir_all(&root)?;
    let mut command = in_context(context, state, "cc");
    command.args(["-static", "-Os", "-s", "-o", "root/pause", "pause.c"]);
    cargo::run(command, interrupt)
}

/// Makes `rootfs.tar`, of the packages that the recipe names.
fn install_debian(context: &Path, state: &State, interrupt: &Interrupt) -> Result<()> {
    packages::ensure_programs(&[("mmdebstrap", "mmdebstrap")])?;
    let packages = fs::read_to_string(context.join("packages")).context("reading packages")?;
    let mut command = in_context(context, state, "mmdebstrap");
    command
        .args(["--quiet", "--variant=essential"])
        .arg(format!("--include={}", packages.trim()))
        .arg("--dpkgopt=force-confold")
        .args(LEFT_OUT.map(|path| format!("--dpkgopt=path-exclude={path}")))
        .arg("--essential-hook=./before-packages.sh")
        .arg("--customize-hook=./after-packages.sh")
        .args([RELEASE, "rootfs.tar"]);
    cargo::run(command, interrupt)
}

fn in_context(context: &Path, state: &State, program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--", program])
        .env(test_support::children::MARK, state.dir())
        .current_dir(context);
    command
}
