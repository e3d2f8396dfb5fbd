//! Waiting for a condition instead of sleeping for a fixed time.

use std::fmt::Display;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// What one look at the awaited condition gave: a `bool`, an `Option`, or a `Result` whose error tells what was seen
/// instead. The error of the last look becomes part of the message when the deadline passes.
pub trait Observation {
    /// What is handed back once the condition holds.
    type Value;

    /// The value, or what was seen instead of it.
    fn observed(self) -> Result<Self::Value, String>;
}

impl Observation for bool {
    type Value = ();

    fn observed(self) -> Result<(), String> {
        if self {
            Ok(())
        } else {
            Err("false".to_owned())
        }
    }
}

impl<T> Observation for Option<T> {
    type Value = T;

    fn observed(self) -> Result<T, String> {
        self.ok_or_else(|| "nothing".to_owned())
    }
}

impl<T, E: Display> Observation for Result<T, E> {
    type Value = T;

    fn observed(self) -> Result<T, String> {
        // The alternate form prints the causes of an `anyhow::Error` too.
        self.map_err(|error| format!("{error:#}"))
    }
}

/// Polls `probe` until it gives a value, or fails with `what` and the last observation once `deadline` has passed.
pub fn try_eventually<O: Observation>(
    deadline: Duration,
    what: &str,
    mut probe: impl FnMut() -> O,
) -> Result<O::Value> {
    let start = Instant::now();
    loop {
        match probe().observed() {
            Ok(value) => return Ok(value),
            Err(seen) if start.elapsed() >= deadline => bail!(too_late(deadline, what, &seen)),
            Err(_) => thread::sleep(POLL_INTERVAL),
        }
    }
}

/// [`try_eventually`] for tests.
///
/// # Panics
/// When the deadline passes, at the caller's line.
#[track_caller]
pub fn eventually<O: Observation>(
    deadline: Duration,
    what: &str,
    probe: impl FnMut() -> O,
) -> O::Value {
    match try_eventually(deadline, what, probe) {
        Ok(value) => value,
        Err(error) => panic!("{error:#}"),
    }
}

/// [`eventually`] with an async probe. A probe that hangs is cut off at the deadline.
///
/// # Panics
/// When the deadline passes.
#[cfg(feature = "tokio")]
pub async fn eventually_async<O: Observation, F: Future<Output = O>>(
    deadline: Duration,
    what: &str,
    mut probe: impl FnMut() -> F,
) -> O::Value {
    let end = tokio::time::Instant::now() + deadline;
    let mut seen = "no answer to the first probe".to_owned();
    while let Ok(observation) = tokio::time::timeout_at(end, probe()).await {
        match observation.observed() {
            Ok(value) => return value,
            Err(observation) => seen = observation,
        }
        if tokio::time::Instant::now() >= end {
            break;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    panic!("{}", too_late(deadline, what, &seen));
}

fn too_late(deadline: Duration, what: &str, seen: &str) -> String {
    format!("waited {deadline:?} for {what}; last seen: {seen}")
}
