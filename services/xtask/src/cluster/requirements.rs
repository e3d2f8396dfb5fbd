//! What a machine must have for a cluster of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Result;
use test_support::servers::packages;

use super::CannotRun;
use super::node::CGROUP;
use super::tools::{COREDNS, HELM4, KUBERNETES, go_works};
use crate::images::Engine;

/// Programs, and the Debian packages that have them.
const PROGRAMS: [(&str, &str); 11] = [
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("/usr/lib/cni/ptp", "containernetworking-plugins"),
    ("etcd", "etcd-server"),
    ("iptables", "iptables"),
    ("ip", "iproute2"),
    ("mount", "mount"),
    ("nsenter", "util-linux"),
    ("openssl", "openssl"),
    ("cc", "gcc"),
    ("mmdebstrap", "mmdebstrap"),
];

/// Controllers of control groups that kubelet does not start without.
const CONTROLLERS: [&str; 4] = ["cpu", "cpuacct", "cpuset", "memory"];

/// Bits of Linux capabilities.
const NEEDED_CAPABILITIES: [(&str, u32); 3] = [
    ("CAP_NET_ADMIN", 12),
    ("CAP_SYS_CHROOT", 18),
    ("CAP_SYS_ADMIN", 21),
];

/// Looks at the machine, and installs the packages if nothing else is missing.
///
/// # Errors
/// [`CannotRun`] names everything that is missing.
pub fn ensure(state_dir: &Path) -> Result<(), CannotRun> {
    let mut missing = Vec::new();
    let mut demand = |holds: bool, otherwise: &str| {
        if !holds {
            missing.push(otherwise.to_owned());
        }
    };
    let capabilities = effective_capabilities();
    demand(is_root(), "it needs root");
    for (name, bit) in NEEDED_CAPABILITIES {
        demand(capabilities >> bit & 1 == 1, &format!("it needs {name}"));
    }
    demand(
        cgroups_work(),
        "control groups cannot be made below /sys/fs/cgroup, or one of the controllers cpu, cpuset and memory is off",
    );
    demand(
        namespaces_work(),
        "`unshare --net --mount --pid` is not permitted",
    );
    demand(
        fs::File::open("/dev/kmsg").is_ok(),
        "/dev/kmsg cannot be opened",
    );
    demand(
        !is_overlay(state_dir),
        "target/ is on an overlay file system, where images cannot be unpacked",
    );
    demand(
        programs_are_cached() || go_works(),
        "Go 1.26 or later is not installed, and the cluster's programs are not in the cache",
    );
    if missing.is_empty()
        && let Err(error) = packages::ensure_programs(&PROGRAMS)
    {
        missing.push(format!("{error:#}"));
    }
    if missing.is_empty()
        && let Err(error) = Engine::find()
    {
        missing.push(format!("{error:#}"));
    }
    if missing.is_empty() && !packet_filter_works() {
        missing.push("iptables does not work in a network namespace".to_owned());
    }
    if missing.is_empty() {
        Ok(())
    } else {
        Err(CannotRun { missing })
    }
}

/// Where control groups are made: one directory, or with version 1 one for each controller.
pub fn cgroup_roots() -> Vec<PathBuf> {
    cgroup_mounts(&fs::read_to_string("/proc/mounts").unwrap_or_default())
}

fn cgroup_mounts(mounts: &str) -> Vec<PathBuf> {
    mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (_, at, kind) = (words.next()?, words.next()?, words.next()?);
            matches!(kind, "cgroup" | "cgroup2").then(|| PathBuf::from(at))
        })
        .collect()
}

fn cgroups_work() -> bool {
    let root = Path::new("/sys/fs/cgroup");
    let has_controllers = match fs::read_to_string(root.join("cgroup.subtree_control")) {
        Ok(on) => ["cpu", "cpuset", "memory"]
            .iter()
            .all(|needed| on.split_whitespace().any(|it| it == *needed)),
        Err(_) => CONTROLLERS.iter().all(|it| root.join(it).is_dir()),
    };
    has_controllers
        && cgroup_roots().iter().all(|root| {
            let trial = root.join(format!("{CGROUP}-trial-{}", std::process::id()));
            fs::create_dir(&trial)
                .and_then(|()| fs::remove_dir(&trial))
                .is_ok()
        })
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

fn effective_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or_default()
}

fn namespaces_work() -> bool {
    let namespaces = ["--net", "--mount", "--pid", "--fork", "--mount-proc"];
    succeeds(Command::new("unshare").args(namespaces).arg("true"))
}

fn packet_filter_works() -> bool {
    let filter = ["--net", "iptables", "-t", "nat", "-S"];
    succeeds(Command::new("unshare").args(filter))
}

fn is_overlay(dir: &Path) -> bool {
    let output = Command::new("stat")
        .args(["--file-system", "--format=%T"])
        .arg(dir)
        .output();
    output.is_ok_and(|output| output.stdout.starts_with(b"overlay"))
}

fn programs_are_cached() -> bool {
    [KUBERNETES, COREDNS, HELM4]
        .iter()
        .all(|tool| tool.is_cached().unwrap_or_default())
}

fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_groups_of_both_versions_are_taken_from_the_mounts() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let expected = ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/unified"];
        assert_eq!(cgroup_mounts(mounts), expected.map(PathBuf::from));
    }
}
