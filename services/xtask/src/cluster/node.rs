//! The node: network, mount and process namespaces of its own, which take everything with them when they end.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use test_support::children::{self, Launch, Process};
use test_support::try_eventually;

use super::requirements::cgroup_roots;
use crate::interrupt::Interrupt;
use crate::process::run;

/// Addresses of RFC 2544, for tests within a machine: a developer's own networks stay reachable.
pub const NODE_IP: &str = "198.18.0.2";
/// Where pods get their addresses from.
pub const POD_CIDR: &str = "198.18.64.0/18";
/// Where Services get theirs from.
pub const SERVICE_CIDR: &str = "198.19.0.0/16";
/// The first address of [`SERVICE_CIDR`]: the API server's.
pub const API_SERVICE_IP: &str = "198.19.0.1";
/// The name of the control group that all pods are below.
pub const CGROUP: &str = "identity-sync";

const HOST_IP: &str = "198.18.0.1";
const ALL_ADDRESSES: &str = "198.18.0.0/15";
/// The machine's end of the link to the node.
const LINK: &str = "identity-sync0";
const LOCK: &str = "/run/lock/identity-sync-cluster";
const INIT: &str = "k8s/cluster/node.sh";

const START_DEADLINE: Duration = Duration::from_secs(10);
const CGROUP_DEADLINE: Duration = Duration::from_secs(10);

/// The namespaces, which end when this is dropped.
#[derive(Debug)]
pub struct Node {
    init: Option<Process>,
    state: PathBuf,
    _turn: Turn,
}

/// Of one throwaway cluster at a time: they have the machine's names in common, and the names of their images. Held until
/// we end, however that happens.
#[derive(Debug)]
pub struct Turn(#[expect(dead_code, reason = "the lock is all")] File);

impl Turn {
    /// Waits for it.
    pub fn wait(interrupt: &Interrupt) -> Result<Self> {
        let open = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(LOCK);
        let file = open.with_context(|| format!("opening {LOCK}"))?;
        let mut said = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self(file)),
                Err(TryLockError::WouldBlock) if !said => {
                    println!(
                        "Another throwaway cluster runs on this machine: waiting for its end …"
                    );
                    said = true;
                }
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => bail!("locking {LOCK}: {error}"),
            }
            interrupt.check()?;
            thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Node {
    /// Makes the namespaces, and the link and the routes to them. What an earlier run left behind is removed.
    pub fn start(root: &Path, state: &Path, turn: Turn) -> Result<Self> {
        clean_machine()?;
        for root in cgroup_roots() {
            let group = root.join(CGROUP);
            fs::create_dir(&group).with_context(|| format!("creating {}", group.display()))?;
        }
        let program = Path::new("unshare");
        let mut command = children::command(program, state, Launch::default());
        command
            .args(["--net", "--mount", "--pid", "--fork", "--mount-proc"])
            .args(["--kill-child=KILL", "--", "sh"])
            .arg(root.join(INIT))
            .arg(state)
            .stdin(Stdio::null())
            .stdout(log(state, "node")?)
            .stderr(log(state, "node")?);
        let mut node = Self {
            init: None,
            state: state.to_owned(),
            _turn: turn,
        };
        let init = node.init.insert(children::spawn(command)?);
        let pid = init.id().to_string();
        let ready = state.join("node-is-ready");
        try_eventually(START_DEADLINE, "the node's namespaces", || {
            ready
                .exists()
                .then_some(())
                .ok_or_else(|| fs::read_to_string(log_path(state, "node")).unwrap_or_default())
        })?;
        node.connect(&pid)?;
        Ok(node)
    }

    /// A command for `program` on the node, to be started by [`children::spawn`] or directly.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = children::command(Path::new("nsenter"), &self.state, Launch::default());
        let pid = self.init.as_ref().map_or(0, Process::id);
        // Of the process that made the namespaces: it itself is not in the new one of processes, its children are.
        command
            .arg(format!("--net=/proc/{pid}/ns/net"))
            .arg(format!("--mount=/proc/{pid}/ns/mnt"))
            .arg(format!("--pid=/proc/{pid}/ns/pid_for_children"))
            .arg("--")
            .arg(program)
            .stdin(Stdio::null());
        command
    }

    /// Whether the namespaces are gone.
    pub fn has_ended(&self) -> Result<bool> {
        match &self.init {
            Some(init) => Ok(init.exit_status()?.is_some()),
            None => Ok(true),
        }
    }

    /// Ends every process on the node, and removes what the machine has of it.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(init) = self.init.take() {
            init.kill()?;
            drop(init);
            clean_machine()?;
        }
        Ok(())
    }

    fn connect(&self, pid: &str) -> Result<()> {
        ip(&format!(
            "link add {LINK} type veth peer name eth0 netns {pid}"
        ))?;
        ip(&format!("address add {HOST_IP}/30 dev {LINK}"))?;
        ip(&format!("link set {LINK} up"))?;
        for arguments in [
            format!("address add {NODE_IP}/30 dev eth0"),
            "link set eth0 up".to_owned(),
        ] {
            let mut command = self.command(Path::new("ip"));
            run(command.args(arguments.split(' ')))?;
        }
        // Never out of the machine, not even while the link is away.
        ip(&format!("route add unreachable {ALL_ADDRESSES}"))?;
        ip(&format!("route add {POD_CIDR} via {NODE_IP}"))?;
        ip(&format!("route add {SERVICE_CIDR} via {NODE_IP}"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("could not remove the cluster's node: {error:#}");
        }
    }
}

/// The log of one of the node's programs.
pub fn log_path(state: &Path, name: &str) -> PathBuf {
    state.join("log").join(format!("{name}.log"))
}

/// The same, opened to be added to.
pub fn log(state: &Path, name: &str) -> Result<File> {
    let path = log_path(state, name);
    let file = File::options().create(true).append(true).open(&path);
    file.with_context(|| format!("opening {}", path.display()))
}

/// Removes the link, the routes, the control groups and the mount points of a node whose processes have ended.
fn clean_machine() -> Result<()> {
    // Those that are not there any more give an error each: the namespace took the link along, and the link its routes.
    for arguments in [
        format!("link delete {LINK}"),
        format!("route delete unreachable {ALL_ADDRESSES}"),
    ] {
        let _ = Command::new("ip")
            .args(arguments.split(' '))
            .stderr(Stdio::null())
            .status();
    }
    for root in cgroup_roots() {
        let group = root.join(CGROUP);
        let what = format!("the end of {}", group.display());
        try_eventually(CGROUP_DEADLINE, &what, || remove_group(&group))?;
    }
    // Made as mount points. Only empty ones go.
    for dir in ["/var/lib/kubelet", "/var/lib/cni"] {
        let _ = fs::remove_dir(dir);
    }
    Ok(())
}

/// Removes a control group and those below it.
fn remove_group(group: &Path) -> std::io::Result<()> {
    let Ok(entries) = fs::read_dir(group) else {
        return Ok(());
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_group(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}

fn ip(arguments: &str) -> Result<()> {
    run(Command::new("ip").args(arguments.split(' '))).map(|_| ())
}
