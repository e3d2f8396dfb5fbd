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
        let began = Instant::now();
        let (outcome, at_the_end, samples) = thread::scope(|scope| {
            let loading = scope.spawn(|| {
                let outcome = bench.block_on(load::run(&url, load))?;
                anyhow::Ok((outcome, dispatched(&world)?))
            });
            let mut samples = Vec::new();
            while !loading.is_finished() {
                samples.push((began.elapsed(), dispatched(&world)?));
                thread::sleep(SAMPLE);
            }
            let (outcome, at_the_end) = loading.join().ok().context("the load failed")??;
            anyhow::Ok((outcome, at_the_end, samples))
        })?;
        let during = at_the_end - before;
        let accepted = stats::number(outcome.accepted);
        report.add(LOADED, "accepted/s", outcome.rate());
        report.add(LOADED, DISPATCHED, during / outcome.took.as_secs_f64());
        report.add(LOADED, "dispatched of accepted", during / accepted);
        report.add(LOADED, "backlog at the end", accepted - during);
        // A flat backlog is at half time what it is at the end.
        let half = samples.iter().rfind(|(at, _)| *at <= outcome.took / 2);
        let half = half.map_or(0.0, |(at, seen)| {
            outcome.rate() * at.as_secs_f64() - (seen - before)
        });
        report.add(LOADED, "backlog at half time", half);

        let drained = Instant::now();
        await_dispatched(&world, outcome.accepted)?;
        report.add(LOADED, "seconds to drain", drained.elapsed().as_secs_f64());
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
