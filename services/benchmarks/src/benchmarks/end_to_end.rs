//! Server A loaded to its limit: does what it accepts starve what server B dispatches?

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::process::await_dispatched;
use crate::bare::publisher;
use crate::bench::{Bench, World};
use crate::load::{self, Load};
use crate::report::{Aim, Report};
use crate::stats;

const LOADED: &str = "server A loaded";
const ALONE: &str = "server B alone";
const DISPATCHED: &str = "dispatched/s";
const SAMPLE: Duration = Duration::from_millis(500);

/// Alone, server B works off as many SMS as it can have got.
pub fn run(bench: &Bench) -> Result<Report> {
    let users = bench.pick(10_000, 2_000);
    let mut world = bench.world(users)?;
    world.sql("TRUNCATE sms_messages CASCADE")?;
    let replica = world.start_replica()?;
    let url = world.app.replicas[replica].url.clone();
    let mut report = Report::new("end-to-end");
    for _ in bench.rounds() {
        let load = Load {
            connections: 64,
            users,
            lasts: bench.run_for(60),
        };
        let before = dispatched(&world)?;
        let (outcome, samples) = thread::scope(|scope| {
            let loading = scope.spawn(|| bench.block_on(load::run(&url, load)));
            let mut samples = vec![dispatched(&world)?];
            let began = Instant::now();
            while !loading.is_finished() {
                thread::sleep(SAMPLE);
                samples.push(dispatched(&world)?);
            }
            let outcome = loading.join().ok().context("the load failed")??;
            anyhow::Ok((outcome, (samples, began.elapsed())))
        })?;
        let (samples, took) = samples;
        let during = samples.last().copied().unwrap_or(before) - before;
        let accepted = stats::number(outcome.accepted);
        report.add(LOADED, "accepted/s", outcome.rate());
        report.add(LOADED, DISPATCHED, during / took.as_secs_f64());
        report.add(LOADED, "dispatched of accepted", during / accepted);
        report.add(LOADED, "backlog at the end", accepted - during);
        // Half the time has passed: a flat backlog is as long as at the end.
        let half = samples.get(samples.len() / 2).copied().unwrap_or(before) - before;
        report.add(LOADED, "backlog at half time", accepted / 2.0 - half);

        let drained = Instant::now();
        await_all(&world, outcome.accepted)?;
        report.add(LOADED, "seconds to drain", drained.elapsed().as_secs_f64());
        report.add(LOADED, "all dispatched", 1.0);
        world.sql("TRUNCATE sms_messages CASCADE")?;
        report.add(
            ALONE,
            DISPATCHED,
            alone(bench, &mut world, bench.pick(20_000, 1_000))?,
        );
    }
    report.hold(LOADED, "dispatched of accepted", Aim::AtLeast(0.95));
    report.ratio(LOADED, ALONE, DISPATCHED, None);
    report.note(format!(
        "64 sends under way at a time for {} s. The SMS that were accepted were all dispatched, or this would not have ended.",
        bench.run_for(60).as_secs_f64()
    ));
    Ok(report)
}

fn dispatched(world: &World) -> Result<f64> {
    world.b_metric("identity_sms_dispatched_total", "outcome=\"sent\"")
}

fn await_all(world: &World, count: u64) -> Result<()> {
    await_dispatched(world, count)
}

/// SMS a second that server B dispatches from a full queue.
fn alone(bench: &Bench, world: &mut World, count: u64) -> Result<f64> {
    world.app.kill_b();
    let fill = publisher::fill_sms(&world.rabbitmq_url, count, world.users);
    bench.block_on(fill)?;
    world.app.start_all(0);
    await_dispatched(world, count)?;
    let rate = world.sql(
        "SELECT count(*) / extract(epoch FROM max(status_changed_at) - min(received_at)) FROM sms_messages",
    )?;
    world.sql("TRUNCATE sms_messages CASCADE")?;
    Ok(rate.parse()?)
}
