//! What tracing costs a send: at 10 % to a collector that takes it, and to one that is not there.

use anyhow::Result;
use test_support::OtlpSink;
use test_support::servers::free_port;

use super::send::measure;
use crate::bare::publisher;
use crate::bench::Bench;
use crate::load::Load;
use crate::report::{Aim, Report};

const RATE: &str = "sends/s";
const VARIANTS: [&str; 3] = ["untraced", "10 % traced", "10 % traced, collector dead"];

/// Three replicas side by side that differ in their variables only; one at a time is under load.
pub fn run(bench: &Bench) -> Result<Report> {
    let users = bench.pick(10_000, 2_000);
    let mut world = bench.world(users)?;
    let sink = OtlpSink::start(0)?;
    let dead = format!("http://127.0.0.1:{}", free_port(None)?);
    world.start_replica()?;
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", sink.url().as_str()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.1"),
    ] {
        set(&mut world, name, value);
    }
    world.start_replica()?;
    set(&mut world, "OTEL_EXPORTER_OTLP_ENDPOINT", &dead);
    world.start_replica()?;
    world.app.kill_b();

    let mut report = Report::new("tracing");
    let load = Load {
        connections: 64,
        users,
        lasts: bench.run_for(4),
    };
    for _ in bench.rounds() {
        for (variant, node) in VARIANTS.into_iter().zip(&world.app.replicas) {
            bench.block_on(publisher::purge_sms(&world.rabbitmq_url))?;
            measure(bench, &mut report, variant, node, load)?;
        }
    }
    let [untraced, traced, dead] = VARIANTS;
    report.ratio(traced, untraced, RATE, Some(Aim::AtLeast(0.90)));
    report.ratio(dead, untraced, RATE, Some(Aim::AtLeast(0.95)));
    report.ratio_of_cpu(traced, untraced);
    report.ratio_of_cpu(dead, untraced);
    let spans = |outcome: &str| {
        let [_, traced, _] = &world.app.replicas[..] else {
            return 0.0;
        };
        let labels = format!("outcome=\"{outcome}\"");
        traced.metric(world.app.http(), "identity_trace_spans_total", &labels)
    };
    report.note(format!(
        "64 sends under way at a time. Of the spans of the traced replica {} were exported ({} bytes), {} not.",
        spans("exported"),
        sink.taken().len(),
        spans("ended") - spans("exported")
    ));
    Ok(report)
}

fn set(world: &mut crate::bench::World, name: &str, value: &str) {
    let environment = &mut world.app.setup_mut().environment;
    environment.push((name.to_owned(), value.to_owned()));
}
