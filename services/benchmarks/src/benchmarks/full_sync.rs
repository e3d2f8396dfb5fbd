//! The full sync, beside a bare publisher; and how long a revocation takes meanwhile.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use test_support::app::Verdict;
use test_support::{TestServers, try_eventually};

use super::relay;
use crate::bench::{Bench, LONG, World};
use crate::measure::{Cpu, memory_of};
use crate::report::{Aim, Report};
use crate::stats;
use crate::users;

const RATE: &str = "users/s";
const LAG: &str = "revocation p99 ms";
const PROGRAMS: &[&str] = &["server-b", "server-a", "rabbitmq", "benchmarks"];
/// Between two looks at a revocation.
const LOOK: Duration = Duration::from_millis(2);

/// Real replicas, whose reports pace the sync. Revocations are made in syncs of their own.
pub fn run(bench: &Bench) -> Result<Report> {
    let users = bench.pick(200_000, 2_000);
    let mut world = bench.world(users)?;
    let bare = TestServers::shared().fresh_vhost();
    let body = bench.block_on(relay::sample(&world))?;
    let mut report = Report::new("full-sync");
    for _ in bench.rounds() {
        for replicas in [1, 4] {
            replicate(&mut world, replicas)?;
            let before = Cpu::now()?;
            let sync = begin(&world)?;
            let rate = await_end(&world, &sync)?;
            let used = Cpu::now()?.since(&before);
            let name = relay::variant("full sync", replicas);
            report.add(&name, RATE, rate);
            report.add_cpu(&name, &used, users, PROGRAMS);
            let lags = revocations(&world)?;
            report.add(&name, LAG, stats::quantile(&lags, 0.99));
            report.add(&name, "revocations", stats::number(lags.len() as u64));

            let bare_name = relay::variant("bare publisher", replicas);
            let before = Cpu::now()?;
            let rate = bench.block_on(relay::published(bare.url(), &body, users, replicas))?;
            let used = Cpu::now()?.since(&before);
            report.add(&bare_name, RATE, rate);
            report.add_cpu(&bare_name, &used, users, PROGRAMS);
        }
    }
    for replicas in [1, 4] {
        let of = relay::variant("full sync", replicas);
        let to = relay::variant("bare publisher", replicas);
        report.ratio(&of, &to, RATE, Some(Aim::AtLeast(0.8)));
        report.ratio_of_cpu(&of, &to);
        report.hold(&of, LAG, Aim::AtMost(1_000.0));
    }
    report.note(format!(
        "{users} users. Server B needed {} MiB at most.",
        memory_of(world.b_id()?)?.peak >> 20
    ));
    Ok(report)
}

/// So many replicas, ready.
fn replicate(world: &mut World, replicas: usize) -> Result<()> {
    world.app.replicas.truncate(replicas);
    // What B knows of those that ended is not to pace the sync.
    world.sql("DELETE FROM replicas")?;
    while world.app.replicas.len() < replicas {
        world.start_replica()?;
    }
    Ok(())
}

/// Asks for a full sync; gives its id once it runs.
fn begin(world: &World) -> Result<String> {
    let asked = world.app.admin("POST", "/full-syncs", None)?;
    let id = asked.body["sync_id"].as_str();
    let id = id.with_context(|| asked.text.clone())?.to_owned();
    Ok(id)
}

fn state(world: &World, id: &str) -> Result<Value> {
    let path = format!("/full-syncs/{id}");
    Ok(world.app.admin("GET", &path, None)?.body)
}

/// Waits for its end; gives users a second.
fn await_end(world: &World, id: &str) -> Result<f64> {
    try_eventually(LONG, "the full sync to end", || {
        let state = state(world, id)?;
        ensure!(state["status"] == "completed", "{state}");
        Ok(())
    })?;
    let seconds = world.sql(&format!(
        "SELECT extract(epoch FROM finished_at - started_at) FROM syncs WHERE sync_id = '{id}'"
    ))?;
    Ok(stats::number(world.users) / seconds.parse::<f64>()?)
}

/// Revokes one user after the other while a full sync runs; the milliseconds until each was refused by every replica.
fn revocations(world: &World) -> Result<Vec<f64>> {
    let id = begin(world)?;
    try_eventually(LONG, "the full sync to begin", || {
        let state = state(world, &id)?;
        ensure!(state["status"] != "requested", "{state}");
        Ok(())
    })?;
    let mut lags = Vec::new();
    for number in 1..=world.users / 2 {
        world.sql(&format!(
            "UPDATE users SET is_active = false WHERE user_id = {number}"
        ))?;
        let committed = Instant::now();
        let key = users::key(number);
        for replica in &world.app.replicas {
            while world.app.verdict(replica, &key) != Verdict::Inactive {
                ensure!(committed.elapsed() < LONG, "a revocation does not arrive");
                std::thread::sleep(LOOK);
            }
        }
        lags.push(committed.elapsed().as_secs_f64() * 1e3);
        if state(world, &id)?["status"] != "running" {
            break;
        }
    }
    await_end(world, &id)?;
    world.sql("UPDATE users SET is_active = true WHERE NOT is_active")?;
    world.wait_relayed()?;
    Ok(lags)
}
