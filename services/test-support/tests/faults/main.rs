//! What breaks in production, done on purpose to real servers and processes. Each test shows that its fault hit, and
//! prints what it saw.
//!
//! `cargo xtask test` runs them with the smaller counts, `cargo xtask test --tier faults` with the full ones.

mod black_hole;
mod broker;
mod calm;
mod drift;
mod import;
mod leader;
mod lock;
mod million;
mod races;
mod restart;
mod restore;
mod stream;
mod take_over;

use std::fs;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use test_support::ServiceProcess;

/// Set to `faults` by `cargo xtask test --tier faults`.
const TIER: &str = "TEST_TIER";

/// The count of the full tier, or the one that CI has the time for.
fn count(full: u64, in_ci: u64) -> u64 {
    static FULL: LazyLock<bool> =
        LazyLock::new(|| std::env::var(TIER).is_ok_and(|tier| tier == "faults"));
    if *FULL { full } else { in_ci }
}

/// Of the load on users. A CI machine may have little to spare, and a load that it cannot bear would be no load.
fn writes_per_second() -> u32 {
    u32::try_from(count(500, 200)).expect("few")
}

/// The most memory that a process has had at a time, in KiB (proc(5), `VmHWM`); `None` when it has ended.
fn peak_memory(process: &ServiceProcess) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).ok()?;
    let size = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    size.split_whitespace().next()?.parse().ok()
}

/// Held by each test: they put load on the machine and have limits of time to keep.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    // A test that failed has left nothing behind.
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
