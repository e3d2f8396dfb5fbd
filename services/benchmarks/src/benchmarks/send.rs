//! `POST /api/v1/sms/send` beside the same server without authentication, and beside a bare publisher.

use std::time::Duration;

use anyhow::Result;
use test_support::app::Node;

use crate::bare::publisher;
use crate::bench::{self, Bench};
use crate::load::{self, Load};
use crate::measure::{Cpu, cpu_of};
use crate::report::{Aim, Report};
use crate::stats;

/// Sends before those that count.
const WARM_UP: Duration = Duration::from_millis(300);
const RATE: &str = "sends/s";
/// The server under load, whatever its program is called.
const SERVER: &str = "server A";

/// Server B is stopped once the cache is full: what it does with the SMS is another benchmark.
pub fn run(bench: &Bench) -> Result<Report> {
    let users = bench.pick(1_000_000, 2_000);
    let mut world = bench.world(users)?;
    let replica = world.start_replica()?;
    let no_auth = bench::start_without_authentication(&world.rabbitmq_url);
    world.app.kill_b();
    let mut report = Report::new("send");
    let connection_counts = bench.pick(&[64, 256][..], &[64]);
    for _ in bench.rounds() {
        for &connections in connection_counts {
            let load = Load {
                connections,
                users,
                lasts: bench.run_for(4),
            };
            let variant = |name: &str| format!("{name}, {connections}");
            for (name, node) in [
                ("server A", &world.app.replicas[replica]),
                ("no authentication", &no_auth),
            ] {
                empty_queue(bench, &world.rabbitmq_url)?;
                measure(bench, &mut report, &variant(name), node, load)?;
            }
            empty_queue(bench, &world.rabbitmq_url)?;
            let before = Cpu::now()?;
            let bare = publisher::sms_load(&world.rabbitmq_url, connections, load.lasts);
            let (sent, rate) = bench.block_on(bare)?;
            let used = Cpu::now()?.since(&before);
            report.add(&variant("bare publisher"), RATE, rate);
            report.add_cpu(
                &variant("bare publisher"),
                &used,
                sent,
                &["rabbitmq", "benchmarks"],
            );
        }
    }
    for connections in connection_counts {
        let variant = |name: &str| format!("{name}, {connections}");
        let of = variant("server A");
        for (to, aim) in [("no authentication", 0.95), ("bare publisher", 0.8)] {
            report.ratio(&of, &variant(to), RATE, Some(Aim::AtLeast(aim)));
            report.ratio_of_cpu(&of, &variant(to));
        }
        report.hold(&of, "CPU µs/op, server A", Aim::AtMost(45.0));
    }
    report.note(format!(
        "{users} users in the cache, random keys; after the variant's name the sends under way at a time."
    ));
    empty_queue(bench, &world.rabbitmq_url)?;
    Ok(report)
}

fn empty_queue(bench: &Bench, rabbitmq_url: &str) -> Result<()> {
    bench.block_on(publisher::purge_sms(rabbitmq_url))
}

/// Loads one server and adds what came of it.
pub fn measure(
    bench: &Bench,
    report: &mut Report,
    variant: &str,
    node: &Node,
    load: Load,
) -> Result<()> {
    let warm_up = Load {
        lasts: WARM_UP,
        ..load
    };
    bench.block_on(load::run(&node.url, warm_up))?;
    let (before, own_before) = (Cpu::now()?, cpu_of(node.process.id())?);
    let outcome = bench.block_on(load::run(&node.url, load))?;
    let used = cpu_of(node.process.id())?.saturating_sub(own_before);
    let mut all = Cpu::now()?.since(&before);
    all.insert(SERVER.to_owned(), used);
    report.add(variant, RATE, outcome.rate());
    for (name, at) in [("p50 ms", 0.5), ("p99 ms", 0.99)] {
        report.add(variant, name, stats::quantile(&outcome.latencies, at));
    }
    let programs = [SERVER, "rabbitmq", "benchmarks"];
    report.add_cpu(variant, &all, outcome.accepted, &programs);
    Ok(())
}
