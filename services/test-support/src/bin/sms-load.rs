//! A client of server A for tests in a cluster: sends SMS at a steady rate until it is killed.
//!
//! `TARGET_URL` is server A's, `API_KEY` a valid key, `PER_SECOND` the rate. Every SMS goes over a connection of its
//! own, so each send shows whether the Service points at a pod that serves. Each second one line of JSON tells what came
//! of the sends since the last, and how many have no answer yet:
//! `{"accepted": ["<message_id>", …], "failed": ["<status or error>", …], "open": 0}`.

use std::env;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use test_support::Http;

#[derive(Debug, Default)]
struct Outcomes {
    accepted: Vec<String>,
    failed: Vec<String>,
    open: u32,
}

fn main() -> Result<()> {
    let variable = |name| env::var(name).with_context(|| format!("{name} is not set"));
    let url = format!("{}/api/v1/sms/send", variable("TARGET_URL")?);
    let key = variable("API_KEY")?;
    let per_second: u32 = variable("PER_SECOND")?
        .parse()
        .context("PER_SECOND is not a number")?;
    ensure!(per_second > 0, "PER_SECOND is 0");

    let outcomes = Arc::new(Mutex::new(Outcomes::default()));
    let start = Instant::now();
    let mut told = Duration::ZERO;
    for number in 0.. {
        let due = Duration::from_secs(1) * number / per_second;
        thread::sleep(due.saturating_sub(start.elapsed()));
        if start.elapsed() >= told + Duration::from_secs(1) {
            told = start.elapsed();
            let mut outcomes = lock(&outcomes);
            let (accepted, failed) = (
                std::mem::take(&mut outcomes.accepted),
                std::mem::take(&mut outcomes.failed),
            );
            println!(
                "{}",
                json!({"accepted": accepted, "failed": failed, "open": outcomes.open})
            );
        }
        let (url, key, outcomes_of_send) = (url.clone(), key.clone(), Arc::clone(&outcomes));
        lock(&outcomes).open += 1;
        // Open load: a send that hangs does not keep the next one waiting.
        thread::spawn(move || {
            let outcome = send(&url, &key);
            let mut outcomes = lock(&outcomes_of_send);
            outcomes.open -= 1;
            match outcome {
                Ok(message_id) => outcomes.accepted.push(message_id),
                Err(error) => outcomes.failed.push(format!("{error:#}")),
            }
        });
    }
    Ok(())
}

fn lock(outcomes: &Mutex<Outcomes>) -> MutexGuard<'_, Outcomes> {
    outcomes.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The id of an accepted SMS; anything else is an error, a refusal with its status.
fn send(url: &str, key: &str) -> Result<String> {
    let body = json!({"to": "+14155550123", "from": "ACME", "body": "load"});
    // A client of its own, and so a connection of its own.
    let answer = Http::new().call("POST", url, Some(("api-key", key)), Some(&body))?;
    ensure!(answer.status == 202, "{}: {}", answer.status, answer.text);
    let id = answer.body["message_id"].as_str();
    id.map(str::to_owned).context("202 without message_id")
}
