//! What a server keeps between its runs: ports and a password.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// A directory that only its owner can read.
#[derive(Debug)]
pub(super) struct StateDir(PathBuf);

impl StateDir {
    pub(super) fn create(dir: &Path) -> Result<Self> {
        create_dir(dir)?;
        let absolute = dir
            .canonicalize()
            .with_context(|| format!("resolving {}", dir.display()))?;
        Ok(Self(absolute))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A directory below this one.
    pub(super) fn subdir(&self, name: &str) -> Result<PathBuf> {
        let path = self.join(name);
        create_dir(&path)?;
        Ok(path)
    }

    /// The port used last time if it is free, else another one.
    pub(super) fn port(&self, name: &str) -> Result<u16> {
        kept_port(&self.join(&format!("{name}.port")), None)
    }

    /// The secret made on the first run.
    pub(super) fn secret(&self, name: &str) -> Result<String> {
        let file = self.join(name);
        if let Ok(secret) = fs::read_to_string(&file)
            && !secret.is_empty()
        {
            return Ok(secret);
        }
        let secret = random_hex()?;
        write_private(&file, &secret)?;
        Ok(secret)
    }
}

fn create_dir(dir: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("creating {}", dir.display()))
}

/// The port kept in `file` from last time, or `first` if there was no last time; another one if it is not free.
pub fn kept_port(file: &Path, first: Option<u16>) -> Result<u16> {
    let kept = fs::read_to_string(file)
        .ok()
        .and_then(|port| port.trim().parse().ok());
    let port = free_port(kept.or(first))?;
    fs::write(file, port.to_string()).with_context(|| format!("writing {}", file.display()))?;
    Ok(port)
}

/// `preferred` if nothing listens there on the loopback, else a port that is free now.
///
/// Ports stay below Linux's ephemeral range: from there any outgoing connection could take the port of a server that is
/// down for a moment.
pub fn free_port(preferred: Option<u16>) -> Result<u16> {
    const PORTS: std::ops::Range<u16> = 10_240..32_768;
    let is_free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    if let Some(port) = preferred.filter(|port| is_free(*port)) {
        return Ok(port);
    }
    for _ in 0..1000 {
        let port = PORTS.start + u16::from_ne_bytes(random()?) % (PORTS.end - PORTS.start);
        if is_free(port) {
            return Ok(port);
        }
    }
    bail!(
        "no free port on the loopback between {} and {}",
        PORTS.start,
        PORTS.end
    )
}

/// Replaces `file` atomically by one with this content that only its owner can read.
pub fn write_private(file: &Path, content: &str) -> Result<()> {
    let new = file.with_extension("new");
    // A file that is already there would keep its mode.
    let _ = fs::remove_file(&new);
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut handle| handle.write_all(content.as_bytes()))
        .and_then(|()| fs::rename(&new, file))
        .with_context(|| format!("writing {}", file.display()))
}

/// 128 random bits as hex: safe in URLs, configuration files and shells.
pub fn random_hex() -> Result<String> {
    Ok(format!("{:032x}", u128::from_ne_bytes(random()?)))
}

/// Random bytes of the kernel.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .context("reading /dev/urandom")?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_not_offered() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = taken.local_addr().expect("bound").port();
        assert_ne!(free_port(Some(port)).expect("another port"), port);
        drop(taken);
        assert_eq!(free_port(Some(port)).expect("the same port"), port);
    }
}
