//! The server programs, from Debian's or Ubuntu's packages.

use std::env;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

/// Debian's own script, not the wrapper in `/usr/sbin`: that one insists on the user and the directories of the system
/// instance.
const RABBITMQ_SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Where the server programs are.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The start script of RabbitMQ.
    pub rabbitmq_server: PathBuf,
    /// The directory of `postgres`, `initdb` and `psql`.
    pub postgres_bin: PathBuf,
}

/// Finds the server programs, and installs by apt what is missing, without starting any system service.
///
/// # Errors
/// Says in one line what to install if neither root nor `sudo` without a password is there to do it.
pub fn ensure() -> Result<Programs> {
    let mut missing = Vec::new();
    if rabbitmq_server().is_none() {
        missing.push("rabbitmq-server");
    }
    if postgres_bin().is_none() {
        missing.push("postgresql");
    }
    if !missing.is_empty() {
        install(&missing)?;
    }
    find()
}

/// Installs by apt the packages of programs that are neither in `PATH` nor, given with a `/`, where they are looked for;
/// no system service is started. Each program is paired with its package.
///
/// # Errors
/// As of [`ensure`].
pub fn ensure_programs(programs: &[(&str, &str)]) -> Result<()> {
    let mut missing: Vec<&str> = Vec::new();
    for (program, package) in programs {
        if !is_program(program) && !missing.contains(package) {
            missing.push(package);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    install(&missing)
}

/// Finds the server programs without installing anything.
pub fn find() -> Result<Programs> {
    Ok(Programs {
        rabbitmq_server: rabbitmq_server()
            .context("the package rabbitmq-server is not installed")?,
        postgres_bin: find_postgres_bin()?,
    })
}

/// The directory of `postgres`, `initdb` and `psql`.
pub fn find_postgres_bin() -> Result<PathBuf> {
    postgres_bin().context("the package postgresql is not installed")
}

/// Whether a program can be run; administrators' programs may be outside of a user's `PATH`.
fn is_program(name: &str) -> bool {
    let of_administrators = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(of_administrators)
        .any(|dir| dir.join(name).exists())
}

fn rabbitmq_server() -> Option<PathBuf> {
    let script = PathBuf::from(RABBITMQ_SERVER);
    script.exists().then_some(script)
}

/// The newest PostgreSQL below Debian's directory, else the one in `PATH`.
fn postgres_bin() -> Option<PathBuf> {
    let version = |dir: &Path| dir.parent()?.file_name()?.to_str()?.parse::<u32>().ok();
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let newest = installed
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|bin| has_postgres(bin))
        .max_by_key(|bin| version(bin));
    newest.or_else(|| env::split_paths(&env::var_os("PATH")?).find(|bin| has_postgres(bin)))
}

fn has_postgres(bin: &Path) -> bool {
    ["postgres", "initdb", "psql"]
        .iter()
        .all(|program| bin.join(program).exists())
}

/// Whether we run as root.
pub(super) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

fn install(packages: &[&str]) -> Result<()> {
    let needed = format!("sudo apt-get install {}", packages.join(" "));
    let as_root = as_root().with_context(|| format!("missing packages; please run: {needed}"))?;
    println!("Installing {} …", packages.join(" and "));
    let _policy = ServicesStayDown::enforce(as_root)?;
    run_as_root(as_root, &["apt-get", "update", "-q"])?;
    let install = ["apt-get", "install", "-q", "-y", "--no-install-recommends"];
    run_as_root(as_root, &[&install, packages].concat())
        .with_context(|| format!("please run: {needed}"))?;
    disable_at_boot(as_root, packages);
    Ok(())
}

/// What to put before a command that needs root.
fn as_root() -> Result<&'static [&'static str]> {
    if is_root() {
        return Ok(&[]);
    }
    let sudo = Command::new("sudo")
        .args(["-n", "true"])
        .stderr(Stdio::null())
        .status();
    ensure!(
        sudo.is_ok_and(|status| status.success()),
        "neither root nor sudo without a password"
    );
    Ok(&["sudo", "-n"])
}

fn run_as_root(as_root: &[&str], command: &[&str]) -> Result<()> {
    // sudo drops the environment, so the variable goes through env(1).
    let words = [as_root, &["env", "DEBIAN_FRONTEND=noninteractive"], command].concat();
    let (program, arguments) = words.split_first().context("an empty command")?;
    let status = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("running {program}"))?;
    if !status.success() {
        bail!("{} failed: {status}", command.join(" "));
    }
    Ok(())
}

/// The packages enable their services for the next boot; the machine is left without them.
fn disable_at_boot(as_root: &[&str], packages: &[&str]) {
    if Path::new("/run/systemd/system").exists() {
        for package in packages {
            // A unit is called like its package, or like the program (etcd).
            for name in [package, package.trim_end_matches("-server")] {
                let unit = format!("{name}.service");
                // Only a nicety: the private servers work either way.
                let _ = run_as_root(as_root, &["systemctl", "disable", "--quiet", &unit]);
            }
        }
    }
}

/// While this lives, Debian's maintainer scripts start no service (invoke-rc.d(8) asks policy-rc.d, 101 forbids). A
/// policy that is there already stays as it is: it is the machine's own decision.
struct ServicesStayDown {
    as_root: &'static [&'static str],
    ours: bool,
}

impl ServicesStayDown {
    fn enforce(as_root: &'static [&'static str]) -> Result<Self> {
        if Path::new(POLICY).exists() {
            return Ok(Self {
                as_root,
                ours: false,
            });
        }
        let policy = env::temp_dir().join(format!("policy-rc.d.{}", std::process::id()));
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(&policy)
            .and_then(|mut file| file.write_all(b"#!/bin/sh\nexit 101\n"))
            .with_context(|| format!("writing {}", policy.display()))?;
        let source = policy.display().to_string();
        let placed = run_as_root(as_root, &["install", "-m", "0755", &source, POLICY]);
        let _ = fs::remove_file(&policy);
        placed?;
        Ok(Self {
            as_root,
            ours: true,
        })
    }
}

impl Drop for ServicesStayDown {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = run_as_root(self.as_root, &["rm", "-f", POLICY])
        {
            eprintln!(
                "please remove {POLICY}, which keeps packages from starting services: {error:#}"
            );
        }
    }
}
