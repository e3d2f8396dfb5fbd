//! Ctrl-C and SIGTERM, seen as a flag that every wait looks at.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// Whether we were asked to end.
#[derive(Debug, Clone)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on both signals only set the flag; a second one ends the process at once.
    pub fn install() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal finds the flag unset and sets it.
            flag::register_conditional_shutdown(signal, 1, Arc::clone(&flag))
                .and_then(|_| flag::register(signal, Arc::clone(&flag)))
                .context("handling signals")?;
        }
        Ok(Self(flag))
    }

    /// Returns when a signal has arrived.
    pub fn wait(&self) {
        while !self.is_set() {
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Whether a signal has arrived.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// An error once a signal has arrived.
    pub fn check(&self) -> Result<()> {
        ensure!(!self.is_set(), "interrupted");
        Ok(())
    }
}
