//! Where things are.

use std::fs::{self, File, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use test_support::children;

/// The root of the checkout.
pub fn root() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize()
        .with_context(|| format!("resolving {}", root.display()))
}

/// Where cargo puts the binaries of the profile `fast`: beside our own profile's directory.
pub fn bin_dir() -> Result<PathBuf> {
    bin_dir_of("fast")
}

/// The same of another profile.
pub fn bin_dir_of(profile: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("finding our own binary")?;
    let target = own
        .parent()
        .and_then(Path::parent)
        .context("our own binary is not in a target directory")?;
    Ok(target.join(profile))
}

/// The state of one command, below `target/`, which only one process uses at a time.
#[derive(Debug)]
pub struct State {
    dir: PathBuf,
    /// Held until we end, however that happens.
    _lock: File,
}

impl State {
    /// Takes `target/<command>` for this process, and ends what a run that was killed left there.
    pub fn take(command: &str) -> Result<Self> {
        let dir = root()?.join("target").join(command);
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        let lock = lock(&dir.join("lock"), command)?;
        let leftovers = children::kill_leftovers(&dir)?;
        if !leftovers.is_empty() {
            println!("Ended what an earlier run left behind (processes {leftovers:?}).");
        }
        Ok(Self { dir, _lock: lock })
    }

    /// A path below the state directory.
    pub fn join(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The state directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

fn lock(path: &Path, command: &str) -> Result<File> {
    let open = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path);
    let mut file = open.with_context(|| format!("opening {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let owner = fs::read_to_string(path).unwrap_or_default();
            bail!(
                "another `cargo xtask {command}` runs in this checkout (process {})",
                owner.trim()
            );
        }
        Err(TryLockError::Error(error)) => bail!("locking {}: {error}", path.display()),
    }
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}
