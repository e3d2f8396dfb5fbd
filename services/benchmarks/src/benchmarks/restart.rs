//! Ten replicas that reconnect at once, beside one.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use test_support::app::Node;
use test_support::{TcpRelay, try_eventually};

use crate::bench::{Bench, LONG, World};
use crate::measure::{Cpu, forget_peak, memory_of};
use crate::report::{Aim, Report};
use crate::stats;

const SECONDS: &str = "seconds";
const READS: &str = "reads of the table";
const ONE: &str = "1 replica";

/// The first replica has a link of its own; the others share one.
pub fn run(bench: &Bench) -> Result<Report> {
    let (users, replicas) = (bench.pick(200_000, 2_000), bench.pick(10, 3));
    let mut world = bench.world(users)?;
    let first = world.app.setup_mut().relay_replicas_to_broker();
    world.start_replica()?;
    world
        .app
        .setup_mut()
        .a_rabbitmq_url
        .clone_from(&world.rabbitmq_url);
    let others = world.app.setup_mut().relay_replicas_to_broker();
    world.app.start_at_once(replicas - 1);
    for number in 1..replicas {
        world.wait_ready(number)?;
    }
    let all = format!("{replicas} replicas");
    let mut report = Report::new("restart");
    for _ in bench.rounds() {
        reconnect(&mut report, &world, ONE, &[&first], 1)?;
        reconnect(&mut report, &world, &all, &[&first, &others], replicas)?;
    }
    report.ratio(&all, ONE, SECONDS, Some(Aim::AtMost(10.0)));
    report.hold(&all, READS, Aim::AtMost(1.0));
    report.ratio(&all, ONE, "peak MiB of server B", Some(Aim::AtMost(1.1)));
    report.note(format!(
        "{users} users. From the loss of the links until the last replica has a new snapshot; the back-off before the new \
         connection is part of it. The peak is server B's since the links were cut."
    ));
    Ok(report)
}

fn reconnect(
    report: &mut Report,
    world: &World,
    variant: &str,
    links: &[&TcpRelay],
    replicas: usize,
) -> Result<()> {
    let watched = &world.app.replicas[..replicas];
    let completed = |node: &Node| {
        let name = "identity_snapshots_total";
        node.metric(world.app.http(), name, "outcome=\"completed\"")
    };
    let before: Vec<f64> = watched.iter().map(completed).collect();
    let reads = world.b_metric("identity_snapshot_reads_total", "")?;
    let b = world.b_id().context("server B")?;
    forget_peak(b)?;
    let (cpu, began) = (Cpu::now()?, Instant::now());
    for link in links {
        link.cut_once();
    }
    for (node, before) in watched.iter().zip(before) {
        try_eventually(LONG, "a new snapshot", || {
            let now = completed(node);
            ensure!(now > before, "{now}");
            Ok(())
        })?;
    }
    report.add(variant, SECONDS, began.elapsed().as_secs_f64());
    let used = Cpu::now()?.since(&cpu);
    let read = world.b_metric("identity_snapshot_reads_total", "")? - reads;
    report.add(variant, READS, read);
    report.add(
        variant,
        "peak MiB of server B",
        stats::number(memory_of(b)?.peak) / f64::from(1 << 20),
    );
    let rows = world.users * replicas as u64;
    report.add_cpu(variant, &used, rows, &["server-b", "server-a", "rabbitmq"]);
    Ok(())
}
