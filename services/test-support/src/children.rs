//! Child processes that do not outlive us.
//!
//! Three nets, since each has a hole: `Drop` kills the child, the kernel signals it when we die (`PR_SET_PDEATHSIG`), and
//! what was left over all the same is found again by a mark in its environment.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

use crate::eventually::try_eventually;

/// Names the state directory that a process belongs to, in its environment.
pub const MARK: &str = "IDENTITY_SYNC_STATE_DIR";

/// How a program is started.
#[derive(Debug, Clone, Copy, Default)]
pub struct Launch<'a> {
    /// Sent by the kernel when we die, as `setpriv` spells it. `KILL` when empty.
    pub death_signal: &'a str,
    /// An unprivileged user to become; only root can.
    pub user: Option<&'a str>,
}

/// A command for `program`, to be started by [`spawn`], that carries the mark of `state_dir`. Of our environment it gets
/// only `PATH`.
#[must_use]
pub fn command(program: &Path, state_dir: &Path, launch: Launch<'_>) -> Command {
    let mut command = Command::new("setpriv");
    let signal = if launch.death_signal.is_empty() {
        "KILL"
    } else {
        launch.death_signal
    };
    command.args(["--pdeathsig", signal]);
    if let Some(user) = launch.user {
        // The checkout may lie below a directory that only root can enter: this one capability opens the path.
        command.args(["--reuid", user, "--regid", user, "--clear-groups"]);
        command.args([
            "--inh-caps",
            "-all,+dac_override",
            "--ambient-caps",
            "-all,+dac_override",
        ]);
    }
    command
        .arg("--")
        .arg(program)
        .env_clear()
        .env("LANG", "C.UTF-8")
        .env(MARK, state_dir);
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
}

/// A running child in a process group of its own, so that a Ctrl-C in the terminal reaches only us.
#[derive(Debug)]
pub struct Process {
    child: Mutex<Child>,
    pid: Pid,
}

/// Starts `command`.
pub fn spawn(mut command: Command) -> Result<Process> {
    let program = format!("{command:?}");
    command.process_group(0);
    let child =
        spawn_from_lasting_thread(command).with_context(|| format!("starting {program}"))?;
    let pid = Pid::from_child(&child);
    Ok(Process {
        child: Mutex::new(child),
        pid,
    })
}

/// The parent-death signal is sent when the *thread* that started the child ends, and threads of tests and of blocking
/// pools end early: all children are started by one thread that never does.
fn spawn_from_lasting_thread(command: Command) -> io::Result<Child> {
    type Order = (Command, Sender<io::Result<Child>>);
    static ORDERS: OnceLock<Sender<Order>> = OnceLock::new();
    let orders = ORDERS.get_or_init(|| {
        let (orders, queue) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, reply) in queue {
                // A caller that has gone does not want its child.
                if let Err(unwanted) = reply.send(command.spawn())
                    && let Ok(mut child) = unwanted.0
                {
                    let _ = child.kill();
                }
            }
        });
        orders
    });
    let (reply, answer) = channel();
    orders.send((command, reply)).map_err(io::Error::other)?;
    answer.recv().map_err(io::Error::other)?
}

impl Process {
    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// How it ended, or `None` while it runs.
    pub fn exit_status(&self) -> Result<Option<ExitStatus>> {
        Ok(self.child().try_wait()?)
    }

    /// Takes the child's captured output stream.
    #[must_use]
    pub fn take_stdout(&self) -> Option<std::process::ChildStdout> {
        self.child().stdout.take()
    }

    /// Takes the child's captured error stream.
    #[must_use]
    pub fn take_stderr(&self) -> Option<std::process::ChildStderr> {
        self.child().stderr.take()
    }

    /// Sends a signal; nothing happens if the process has ended already.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        // Under the lock a process that was not yet waited for keeps its pid, so the pid cannot be another's.
        let mut child = self.child();
        if child.try_wait()?.is_none() {
            kill_process(self.pid, signal).with_context(|| format!("signalling {}", self.id()))?;
        }
        Ok(())
    }

    /// Waits for the end of the process.
    pub fn wait(&self, deadline: Duration) -> Result<ExitStatus> {
        let what = format!("the end of process {}", self.id());
        try_eventually(deadline, &what, || match self.exit_status() {
            Ok(status) => status.ok_or_else(|| anyhow!("it runs")),
            Err(error) => Err(error),
        })
    }

    /// Sends `signal`, and kills the process and its children if they take longer than `deadline`.
    pub fn stop(&self, signal: Signal, deadline: Duration) -> Result<ExitStatus> {
        self.signal(signal)?;
        self.wait(deadline).or_else(|_| self.kill())
    }

    /// Kills the process and all its descendants with SIGKILL.
    pub fn kill(&self) -> Result<ExitStatus> {
        {
            let mut child = self.child();
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            // Stopped first, so that it cannot start another child meanwhile.
            kill_pid(self.id(), Signal::STOP);
            for descendant in descendants(self.id()) {
                kill_pid(descendant, Signal::KILL);
            }
            child.kill()?;
        }
        self.wait(Duration::from_secs(10))
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Also waits, so that no zombie and no port stays behind.
        if let Err(error) = self.kill() {
            eprintln!("could not kill process {}: {error:#}", self.id());
        }
    }
}

/// Kills every process that carries the mark of `state_dir`: what a run that was killed left behind. Gives their ids.
pub fn kill_leftovers(state_dir: &Path) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    let what = format!("the end of leftover processes of {}", state_dir.display());
    try_eventually(Duration::from_secs(10), &what, || {
        // Looked up again each time: what is killed may just have started another.
        for marked in marked(state_dir) {
            for pid in descendants(marked).into_iter().chain([marked]) {
                if !found.contains(&pid) {
                    kill_pid(pid, Signal::KILL);
                    found.push(pid);
                }
            }
        }
        let left: Vec<&u32> = found.iter().filter(|pid| !has_ended(**pid)).collect();
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("running: {left:?}"))
        }
    })?;
    Ok(found)
}

/// Whether the process holds no files and no ports any more. Its environment is gone earlier than that.
fn has_ended(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return true;
    };
    let zombie = stat
        .rsplit_once(") ")
        .is_none_or(|(_, state)| state.starts_with('Z'));
    // The first thread may be a zombie while others are still ending.
    zombie && fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|threads| threads.count() <= 1)
}

/// Kills every process of this program whose working directory is `dir`; gives how many there were.
#[must_use]
pub fn kill_working_in(dir: &Path, program: &str) -> usize {
    let link = |pid: u32, name: &str| fs::read_link(format!("/proc/{pid}/{name}"));
    let found: Vec<u32> = process_ids()
        .filter(|pid| link(*pid, "cwd").is_ok_and(|cwd| cwd == dir))
        .filter(|pid| link(*pid, "exe").is_ok_and(|exe| exe.file_name() == Some(program.as_ref())))
        .collect();
    for pid in &found {
        kill_pid(*pid, Signal::KILL);
    }
    found.len()
}

/// Processes whose environment names `state_dir` or a directory below it; zombies have no environment.
fn marked(state_dir: &Path) -> Vec<u32> {
    let own = std::process::id();
    process_ids()
        .filter(|pid| *pid != own)
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/environ")).is_ok_and(|it| is_marked(&it, state_dir))
        })
        .collect()
}

fn is_marked(environment: &[u8], state_dir: &Path) -> bool {
    let mark = format!("{MARK}=");
    environment
        .split(|byte| *byte == 0)
        .filter_map(|variable| std::str::from_utf8(variable).ok()?.strip_prefix(&mark))
        .any(|value| Path::new(value).starts_with(state_dir))
}

/// Children, their children and so on.
fn descendants(ancestor: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = process_ids()
        .filter_map(|pid| Some((pid, parent_of(pid)?)))
        .collect();
    let mut found = vec![ancestor];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(
            parents
                .iter()
                .filter(|(_, of)| *of == parent)
                .map(|(pid, _)| *pid),
        );
        next += 1;
    }
    found.split_off(1)
}

fn process_ids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // "pid (name) state parent …"; the name may hold spaces and parentheses.
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

fn kill_pid(pid: u32, signal: Signal) {
    // An error means that it has gone meanwhile, or is another user's; whoever waits for its end will tell.
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_matches_the_directory_and_what_is_below_it_only() {
        let environment = format!("PATH=/bin\0{MARK}=/a/b/c\0HOME=/");
        assert!(is_marked(environment.as_bytes(), Path::new("/a/b/c")));
        assert!(is_marked(environment.as_bytes(), Path::new("/a/b")));
        assert!(!is_marked(environment.as_bytes(), Path::new("/a/b/c/d")));
        assert!(!is_marked(environment.as_bytes(), Path::new("/a/b/cc")));
        assert!(!is_marked(b"PATH=/a/b/c", Path::new("/a/b/c")));
    }
}
