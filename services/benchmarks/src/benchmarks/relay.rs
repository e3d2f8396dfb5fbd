//! Outbox → exchange, beside a bare publisher of the same payload to as many queues.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use test_support::TestServers;
use wire_contract::CONFIG_EVENTS_EXCHANGE;

use crate::bare::listener::{self, Listener};
use crate::bare::publisher;
use crate::bench::{Bench, LONG, World};
use crate::measure::Cpu;
use crate::report::{Aim, Report};
use crate::stats;

const RATE: &str = "events/s";
const PROGRAMS: &[&str] = &["server-b", "rabbitmq", "postgresql", "benchmarks"];
const EVENT: &str = "user.updated";

/// One statement changes every user; what counts is the time from its commit until each queue's reader has all of them.
pub fn run(bench: &Bench) -> Result<Report> {
    let users = bench.pick(50_000, 2_000);
    let world = bench.world(users)?;
    let bare = TestServers::shared().fresh_vhost();
    let body = bench.block_on(sample(&world))?;
    let mut report = Report::new("relay");
    let queue_counts = [1, 4];
    for _ in bench.rounds() {
        for queues in queue_counts {
            let (rate, used) = relayed(bench, &world, queues)?;
            let variant = variant("relay", queues);
            report.add(&variant, RATE, rate);
            report.add(&variant, "bytes/event", stats::number(body.len() as u64));
            report.add_cpu(&variant, &used, users, PROGRAMS);
            let bare_variant = self::variant("bare publisher", queues);
            let before = Cpu::now()?;
            let rate = bench.block_on(published(bare.url(), &body, users, queues))?;
            let used = Cpu::now()?.since(&before);
            report.add(&bare_variant, RATE, rate);
            report.add_cpu(&bare_variant, &used, users, PROGRAMS);
        }
    }
    for queues in queue_counts {
        let (of, to) = (variant("relay", queues), variant("bare publisher", queues));
        report.ratio(&of, &to, RATE, Some(Aim::AtLeast(0.7)));
        report.ratio_of_cpu(&of, &to);
    }
    report.note(format!(
        "{users} changes in one transaction, {} bytes each.",
        body.len()
    ));
    Ok(report)
}

/// A variant's name with the number of queues that are bound.
pub fn variant(name: &str, queues: usize) -> String {
    format!("{name}, {queues} bound")
}

fn relayed(
    bench: &Bench,
    world: &World,
    queues: usize,
) -> Result<(f64, BTreeMap<String, Duration>)> {
    let listeners = bench.block_on(listen(&world.rabbitmq_url, queues))?;
    world.sql("UPDATE users SET daily_quota = 1000000 + (daily_quota + 1) % 1000")?;
    // What the statement itself has used does not count.
    let (before, committed) = (Cpu::now()?, Instant::now());
    bench.block_on(listener::all_seen(&listeners, world.users, LONG))?;
    let rate = stats::number(world.users) / committed.elapsed().as_secs_f64();
    world.wait_relayed()?;
    let used = Cpu::now()?.since(&before);
    bench.block_on(stop(listeners));
    Ok((rate, used))
}

/// Messages a second of a bare publisher, until each of the queues' readers has all of them.
pub async fn published(url: &str, body: &[u8], count: u64, queues: usize) -> Result<f64> {
    let listeners = listen(url, queues).await?;
    let channel = publisher::channel(url).await?;
    let began = Instant::now();
    publisher::broadcast(&channel, CONFIG_EVENTS_EXCHANGE, EVENT, body, count).await?;
    listener::all_seen(&listeners, count, LONG).await?;
    let rate = stats::number(count) / began.elapsed().as_secs_f64();
    channel.close(200, "bye".into()).await?;
    stop(listeners).await;
    Ok(rate)
}

async fn listen(url: &str, queues: usize) -> Result<Vec<Listener>> {
    let mut listeners = Vec::with_capacity(queues);
    for _ in 0..queues {
        listeners.push(Listener::counting(url, EVENT).await?);
    }
    Ok(listeners)
}

async fn stop(listeners: Vec<Listener>) {
    for listener in listeners {
        listener.stop().await;
    }
}

/// The body of a change as the product publishes it.
pub async fn sample(world: &World) -> Result<Vec<u8>> {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&kept);
    let listener = Listener::start(&world.rabbitmq_url, move |delivery| {
        let wanted = listener::is(delivery, EVENT);
        if wanted {
            let mut kept = keep.lock().unwrap_or_else(PoisonError::into_inner);
            kept.clone_from(&delivery.data);
        }
        wanted
    })
    .await?;
    world.sql(
        "UPDATE users SET daily_quota = 1000000 + (daily_quota + 1) % 1000 WHERE user_id = 1",
    )?;
    let listeners = [listener];
    listener::all_seen(&listeners, 1, LONG)
        .await
        .context("a change")?;
    let [listener] = listeners;
    listener.stop().await;
    let body = kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(body)
}
