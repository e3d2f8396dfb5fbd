//! What processes use: CPU time by program, and memory.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// The kernel's unit of CPU times in /proc: the same on all architectures that Linux has.
const TICK: Duration = Duration::from_millis(10);
const POSTGRESQL: &str = "postgresql";

/// CPU time of every process of this run, taken at one moment.
pub struct Cpu(HashMap<u32, (String, Duration)>);

impl Cpu {
    /// The processes are the descendants of our parent: servers, services and this one.
    pub fn now() -> Result<Self> {
        let mut all = HashMap::new();
        let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
        for entry in fs::read_dir("/proc").context("reading /proc")?.flatten() {
            let Some(id) = entry.file_name().to_str().and_then(|it| it.parse().ok()) else {
                continue;
            };
            // One that has just ended is not there.
            let Some(stat) = stat(id) else { continue };
            children.entry(stat.parent).or_default().push(id);
            all.insert(id, (stat.program, stat.used));
        }
        let mut ours = HashSet::new();
        let mut open = vec![std::os::unix::process::parent_id()];
        while let Some(id) = open.pop() {
            open.extend(children.get(&id).into_iter().flatten());
            ours.insert(id);
        }
        all.retain(|id, _| ours.contains(id));
        Ok(Self(all))
    }

    /// By program, since an earlier moment.
    pub fn since(&self, before: &Self) -> BTreeMap<String, Duration> {
        let mut used = BTreeMap::new();
        for (id, (program, now)) in &self.0 {
            let then = before.0.get(id).map_or(Duration::ZERO, |(_, used)| *used);
            *used.entry(program.clone()).or_default() += now.saturating_sub(then);
        }
        // What a session has used is its server's once it has ended: as a whole it is counted once.
        let all = self.of(POSTGRESQL).saturating_sub(before.of(POSTGRESQL));
        used.insert(POSTGRESQL.to_owned(), all);
        used
    }

    fn of(&self, program: &str) -> Duration {
        let used = self.0.values();
        used.filter(|it| it.0 == program).map(|it| it.1).sum()
    }
}

struct Stat {
    program: String,
    parent: u32,
    used: Duration,
}

/// proc(5), `/proc/pid/stat`.
fn stat(id: u32) -> Option<Stat> {
    let line = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (front, rest) = line.rsplit_once(") ")?;
    let (_, program) = front.split_once('(')?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let ticks = |index: usize| fields.get(index)?.parse::<u32>().ok();
    let mut used = ticks(11)? + ticks(12)?;
    let program = match program {
        "beam.smp" => "rabbitmq",
        "postgres" => POSTGRESQL,
        other => other,
    };
    if program == POSTGRESQL {
        // Of its sessions that have ended.
        used += ticks(13)? + ticks(14)?;
    }
    Some(Stat {
        program: program.to_owned(),
        parent: fields.get(1)?.parse().ok()?,
        used: TICK * used,
    })
}

/// CPU time of one process so far.
pub fn cpu_of(id: u32) -> Result<Duration> {
    Ok(stat(id).context("the process runs")?.used)
}

/// Memory of a process in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Now.
    pub resident: u64,
    /// At most since its start, or since [`forget_peak`].
    pub peak: u64,
}

/// Begins the peak of a process anew (proc(5), `/proc/pid/clear_refs`).
pub fn forget_peak(id: u32) -> Result<()> {
    fs::write(format!("/proc/{id}/clear_refs"), "5").context("the peak cannot be forgotten")
}

/// proc(5), `/proc/pid/status`.
pub fn memory_of(id: u32) -> Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).context("the process runs")?;
    let size = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kib * 1024)
    };
    Ok(Memory {
        resident: size("VmRSS:").context("no VmRSS")?,
        peak: size("VmHWM:").context("no VmHWM")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_cpu_time_and_memory_are_seen() {
        let own = std::process::id();
        let before = Cpu::now().expect("/proc is there");
        let mut sum = 0_u64;
        while cpu_of(own).expect("it runs") < TICK * 3 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        let used = Cpu::now().expect("/proc is there").since(&before);
        assert!(used.values().sum::<Duration>() > Duration::ZERO, "{used:?}");
        let memory = memory_of(own).expect("it runs");
        assert!(
            memory.peak >= memory.resident && memory.resident > 0,
            "{memory:?}"
        );
        forget_peak(own).expect("Linux has it");
        let memory = memory_of(own).expect("it runs");
        assert!(memory.peak - memory.resident < 8 << 20, "{memory:?}");
    }
}
