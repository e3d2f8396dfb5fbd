//! `sms_outbound_queue` → row → provider, beside a bare consumer with the same insert.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use test_support::try_eventually;

use crate::bare::{consumer, publisher};
use crate::bench::{Bench, LONG, World};
use crate::measure::Cpu;
use crate::report::{Aim, Report};

const PRODUCT: &str = "server B";
const BARE: &str = "bare consumer";
const PROGRAMS: &[&str] = &["server-b", "benchmarks", "rabbitmq", "postgresql"];
const RATE: &str = "SMS/s";

/// The queue is filled while nobody consumes it.
pub fn run(bench: &Bench) -> Result<Report> {
    let (users, count) = (bench.pick(10_000, 2_000), bench.pick(20_000, 1_000));
    let mut world = bench.world(users)?;
    world.app.kill_b();
    world.sql("TRUNCATE sms_messages CASCADE")?;
    for statement in consumer::SMS_TABLE.split(';') {
        world.sql(statement)?;
    }
    let url = world.rabbitmq_url.clone();
    let mut report = Report::new("process");
    for _ in bench.rounds() {
        bench.block_on(publisher::fill_sms(&url, count, users))?;
        let before = Cpu::now()?;
        let bare = consumer::sms(&url, &world.database_url, count);
        report.add(BARE, RATE, bench.block_on(bare)?);
        let used = Cpu::now()?.since(&before);
        report.add_cpu(BARE, &used, count, PROGRAMS);
        world.sql("TRUNCATE bare_sms")?;

        bench.block_on(publisher::fill_sms(&url, count, users))?;
        let before = Cpu::now()?;
        let (rates, used) = processed(bench, &mut world, count, &before)?;
        report.add(PRODUCT, RATE, rates.dispatched);
        report.add(PRODUCT, "stored/s", rates.stored);
        report.add_cpu(PRODUCT, &used, count, PROGRAMS);
    }
    report.ratio(PRODUCT, BARE, RATE, Some(Aim::AtLeast(0.6)));
    report.ratio_of_cpu(PRODUCT, BARE);
    report.hold(PRODUCT, RATE, Aim::AtLeast(5_000.0));
    report.note(format!(
        "{count} SMS of {users} users. Server B: from the first row to the last hand-over to the provider `log`, which \
         writes a line; each row is inserted, claimed and finished. Bare: from the first delivery to the last commit."
    ));
    Ok(report)
}

/// SMS a second.
struct Rates {
    stored: f64,
    dispatched: f64,
}

/// Starts server B, and stops it when all of the queue has been handed to the provider; gives what was used since `before`.
fn processed(
    bench: &Bench,
    world: &mut World,
    count: u64,
    before: &Cpu,
) -> Result<(Rates, BTreeMap<String, Duration>)> {
    world.app.start_all(0);
    await_dispatched(world, count)?;
    // Before it ends: the kernel forgets what a process has used.
    let used = Cpu::now()?.since(before);
    let figures = world.sql(
        "SELECT count(*) / extract(epoch FROM max(received_at) - min(received_at) + interval '1 microsecond'),
                count(*) / extract(epoch FROM max(status_changed_at) - min(received_at)) FROM sms_messages",
    )?;
    world.app.kill_b();
    world.sql("TRUNCATE sms_messages CASCADE")?;
    // What was not acked before the process ended comes again.
    bench.block_on(publisher::purge_sms(&world.rabbitmq_url))?;
    let (stored, dispatched) = figures.split_once('|').context("two figures")?;
    let rates = Rates {
        stored: stored.parse()?,
        dispatched: dispatched.parse()?,
    };
    Ok((rates, used))
}

/// Waits until so many SMS are with the provider.
pub fn await_dispatched(world: &World, count: u64) -> Result<()> {
    try_eventually(LONG, "all SMS to be with the provider", || {
        // Asked seldom: the answer is a count of the table.
        std::thread::sleep(Duration::from_millis(200));
        let sent: u64 = world
            .sql("SELECT count(*) FROM sms_messages WHERE status = 'sent'")?
            .parse()?;
        ensure!(sent >= count, "{sent} of {count}");
        Ok(())
    })
}
