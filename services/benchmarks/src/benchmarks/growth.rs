//! Send, readiness and memory as users grow in number.

use std::time::Duration;

use anyhow::Result;

use super::ready::fresh_replica;
use super::send::measure;
use crate::bare::publisher;
use crate::bench::{self, Bench, World};
use crate::load::Load;
use crate::report::{Aim, Report};
use crate::stats;

const READY: &str = "µs to ready per user";
const MEMORY: &str = "bytes/user, growth";
const RATE: &str = "sends/s";

/// Worlds of all sizes side by side; first they get replicas, then server B goes and they are loaded in turns.
pub fn run(bench: &Bench) -> Result<Report> {
    let sizes: &[u64] = bench.pick(&[10_000, 100_000, 1_000_000], &[2_000, 20_000]);
    let mut worlds = Vec::with_capacity(sizes.len());
    for users in sizes {
        worlds.push(bench.world(*users)?);
    }
    let mut report = Report::new("growth");
    let empty = fresh_replica(&mut bench::own_world(1)?)?;
    for _ in bench.rounds() {
        for world in &mut worlds {
            readiness(&mut report, world, empty.memory.resident, empty.ready)?;
        }
    }
    for world in &mut worlds {
        world.start_replica()?;
        world.app.kill_b();
    }
    for _ in bench.rounds() {
        for world in &worlds {
            bench.block_on(publisher::purge_sms(&world.rabbitmq_url))?;
            let load = Load {
                connections: 64,
                users: world.users,
                lasts: bench.run_for(4),
            };
            measure(
                bench,
                &mut report,
                &variant(world.users),
                &world.app.replicas[0],
                load,
            )?;
        }
    }
    let (least, most) = (sizes[0], sizes[sizes.len() - 1]);
    let (of, to) = (variant(most), variant(least));
    report.ratio(&of, &to, RATE, Some(Aim::AtLeast(0.9)));
    let (of, to) = (variant(most), variant(sizes[sizes.len() - 2]));
    report.ratio(&of, &to, READY, Some(Aim::AtMost(1.2)));
    report.ratio(&of, &to, MEMORY, Some(Aim::AtMost(1.2)));
    report.note(format!(
        "A replica without users is ready after {:.2} s and takes {} MiB; both are taken off.",
        empty.ready.as_secs_f64(),
        empty.memory.resident >> 20
    ));
    Ok(report)
}

fn variant(users: u64) -> String {
    format!("{users} users")
}

fn readiness(report: &mut Report, world: &mut World, empty: u64, start: Duration) -> Result<()> {
    let users = stats::number(world.users);
    let fresh = fresh_replica(world)?;
    let variant = variant(world.users);
    report.add(&variant, "seconds to ready", fresh.ready.as_secs_f64());
    let beyond = fresh.ready.saturating_sub(start).as_secs_f64();
    report.add(&variant, READY, beyond * 1e6 / users);
    let grown = fresh.memory.resident.saturating_sub(empty);
    report.add(&variant, MEMORY, stats::number(grown) / users);
    Ok(())
}
