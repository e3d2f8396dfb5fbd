//! Sees from outside what a replica's cache says about a key, and how soon after a change.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;
use test_support::Http;

use super::report::readable;
use crate::services::Service;

const DEADLINE: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_micros(500);

/// What a replica makes of a key. The probe's body is invalid, so nothing is queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Authenticated; refused for the body alone.
    Accepted,
    /// Unknown key.
    Unknown,
    /// The user is not active.
    Inactive,
}

impl Verdict {
    fn of(status: u16) -> Result<Self> {
        match status {
            422 => Ok(Self::Accepted),
            401 => Ok(Self::Unknown),
            403 => Ok(Self::Inactive),
            other => bail!("a probe was answered with {other}"),
        }
    }
}

/// Asks a replica for its verdict on a key.
pub fn ask(http: &Http, replica: &Service, key: &str) -> Result<Verdict> {
    let url = format!("{}/api/v1/sms/send", replica.url);
    let answer = http.call(
        "POST",
        &url,
        Some(("API-Key", key)),
        Some(&json!({"to": "", "body": ""})),
    )?;
    Verdict::of(answer.status)
}

/// Makes a change while every replica is being asked about a key, and gives how long after the change's return each
/// came to the expected verdict, which none may have before.
pub fn lag<T>(
    replicas: &[Service],
    key: &str,
    expected: Verdict,
    change: impl FnOnce() -> Result<T>,
) -> Result<(T, String)> {
    for replica in replicas {
        let before = ask(&Http::new(), replica, key)?;
        ensure!(
            before != expected,
            "{} says {before:?} before the change",
            replica.name
        );
    }
    thread::scope(|scope| {
        let watchers: Vec<_> = replicas
            .iter()
            .map(|replica| scope.spawn(move || first_seen(replica, key, expected)))
            .collect();
        let value = change();
        let returned = Instant::now();
        let mut lags = Vec::new();
        for watcher in watchers {
            let seen = watcher.join().ok().context("a watcher panicked")?;
            // A replica may be ahead of the answer to whoever made the change.
            lags.push(seen.map(|seen| readable(seen.saturating_duration_since(returned))));
        }
        // The change's own error explains more than a watcher's deadline.
        let value = value?;
        let lags = lags.into_iter().collect::<Result<Vec<_>>>()?;
        Ok((value, lags.join(", ")))
    })
}

fn first_seen(replica: &Service, key: &str, expected: Verdict) -> Result<Instant> {
    let http = Http::new();
    let end = Instant::now() + DEADLINE;
    loop {
        let verdict = ask(&http, replica, key)?;
        if verdict == expected {
            return Ok(Instant::now());
        }
        ensure!(
            Instant::now() < end,
            "{} still says {verdict:?}",
            replica.name
        );
        thread::sleep(POLL_INTERVAL);
    }
}

/// Waits until every replica holds this many users, and gives how long each took.
pub fn wait_for_users(replicas: &[Service], expected: u64) -> Result<String> {
    let begin = Instant::now();
    let waits = thread::scope(|scope| {
        let watchers: Vec<_> = replicas
            .iter()
            .map(|replica| scope.spawn(move || holds(replica, expected)))
            .collect();
        let seen = watchers
            .into_iter()
            .map(|watcher| watcher.join().ok().context("a watcher panicked")?);
        seen.collect::<Result<Vec<_>>>()
    })?;
    let waits = waits
        .iter()
        .map(|seen| readable(seen.saturating_duration_since(begin)));
    Ok(waits.collect::<Vec<_>>().join(", "))
}

fn holds(replica: &Service, expected: u64) -> Result<Instant> {
    let http = Http::new();
    let end = Instant::now() + DEADLINE;
    loop {
        let status = http.get(&format!("{}/status", replica.admin_url))?.body;
        if status["users"].as_u64() == Some(expected) {
            return Ok(Instant::now());
        }
        ensure!(
            Instant::now() < end,
            "{} holds {} users, not {expected}",
            replica.name,
            status["users"]
        );
        thread::sleep(POLL_INTERVAL);
    }
}
