//! The least root file system that a service runs in.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use test_support::servers::packages;

use crate::process::run;

const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Fills `root` with the binary, the shared libraries it is linked with, the certificate authorities of this machine,
/// and a user; there is no shell and nothing to write to but `/tmp`.
pub fn fill(root: &Path, binary: &Path, name: &str, user: u32) -> Result<()> {
    packages::ensure_programs(&[(AUTHORITIES, "ca-certificates")])?;
    copy(binary, root, &Path::new("/usr/local/bin").join(name))?;
    for library in libraries(binary)? {
        copy(&library, root, &library)?;
    }
    copy(Path::new(AUTHORITIES), root, Path::new(AUTHORITIES))?;
    write(
        root,
        "etc/passwd",
        &format!("nonroot:x:{user}:{user}::/:/\n"),
    )?;
    write(root, "etc/group", &format!("nonroot:x:{user}:\n"))?;
    // Without it glibc asks no name server on some systems.
    write(root, "etc/nsswitch.conf", "hosts: files dns\n")?;
    let tmp = root.join("tmp");
    fs::create_dir(&tmp)
        .and_then(|()| fs::set_permissions(&tmp, Permissions::from_mode(0o1777)))
        .with_context(|| format!("creating {}", tmp.display()))
}

/// The shared libraries of a binary, and its loader, by the paths it looks for them.
fn libraries(binary: &Path) -> Result<Vec<PathBuf>> {
    let said = run(Command::new("ldd").arg(binary))?;
    Ok(paths_of_ldd(&said))
}

/// Lines are like `libc.so.6 => /lib/libc.so.6 (0x…)` or `/lib64/ld-linux.so.2 (0x…)`; the kernel's own has no path.
fn paths_of_ldd(said: &str) -> Vec<PathBuf> {
    let paths = said
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    paths.map(PathBuf::from).collect()
}

/// Copies a file, or what a link points to, to `at` below `root`.
fn copy(from: &Path, root: &Path, at: &Path) -> Result<()> {
    let to = root.join(at.strip_prefix("/").unwrap_or(at));
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::copy(from, &to)
        .with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    Ok(())
}

fn write(root: &Path, name: &str, content: &str) -> Result<()> {
    let file = root.join(name);
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(&file, content).with_context(|| format!("writing {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_loader_are_found_and_the_kernels_own_is_not() {
        let said = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let expected = [
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(paths_of_ldd(said), expected.map(PathBuf::from));
        assert!(paths_of_ldd("\tstatically linked\n").is_empty());
    }
}
