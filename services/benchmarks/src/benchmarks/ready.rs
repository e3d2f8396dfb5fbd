//! How long a fresh replica takes until it is ready, beside a `COPY` of the same rows.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use sqlx::{Connection as _, PgConnection};
use test_support::try_eventually;

use crate::bench::{Bench, LONG, World};
use crate::measure::{Cpu, Memory, memory_of};
use crate::report::{Aim, Report};
use crate::stats;

const REPLICA: &str = "replica";
const COPY: &str = "COPY";
const SECONDS: &str = "seconds";
/// After which memory is weighed.
const SETTLED: Duration = Duration::from_secs(2);

/// A replica a round, from the start of its process.
pub fn run(bench: &Bench) -> Result<Report> {
    let users = bench.pick(1_000_000, 5_000);
    let mut world = bench.world(users)?;
    let mut report = Report::new("ready");
    for _ in bench.rounds() {
        let copied = Instant::now();
        let bytes = bench.block_on(copy(&world.database_url))?;
        report.add(COPY, SECONDS, copied.elapsed().as_secs_f64());
        report.add(
            COPY,
            "bytes/user",
            stats::number(bytes) / stats::number(users),
        );

        let before = Cpu::now()?;
        let fresh = fresh_replica(&mut world)?;
        let used = fresh.cpu.since(&before);
        report.add(REPLICA, SECONDS, fresh.ready.as_secs_f64());
        report.add(REPLICA, "seconds to the proof", fresh.proven.as_secs_f64());
        let per_user = |bytes: u64| stats::number(bytes) / stats::number(users);
        report.add(
            REPLICA,
            "bytes/user, resident",
            per_user(fresh.memory.resident),
        );
        let peak = stats::number(fresh.memory.peak) / stats::number(fresh.memory.resident);
        report.add(REPLICA, "peak memory / final", peak);
        report.add_cpu(
            REPLICA,
            &used,
            users,
            &["server-a", "server-b", "rabbitmq", "postgresql"],
        );
    }
    report.ratio(REPLICA, COPY, SECONDS, Some(Aim::AtMost(3.0)));
    report.hold(REPLICA, "peak memory / final", Aim::AtMost(1.4));
    let peak = memory_of(world.b_id()?)?.peak;
    report.note(format!(
        "{users} users. COPY to a client of the rows with their keys' digests. The replica's time has the second in which \
         server B waits for others that ask, too. Server B needed {} MiB at most.",
        peak >> 20
    ));
    Ok(report)
}

/// A replica that was started, looked at and stopped.
pub struct Fresh {
    /// From the start of the process until `/readyz` says so.
    pub ready: Duration,
    /// Until the digest is proven; bookmarks come once a second.
    pub proven: Duration,
    /// Somewhat later.
    pub memory: Memory,
    /// When it was proven.
    cpu: Cpu,
}

/// Starts one more replica, and stops it when it has proven its cache.
pub fn fresh_replica(world: &mut World) -> Result<Fresh> {
    let began = Instant::now();
    let number = world.start_replica()?;
    let ready = began.elapsed();
    let node = &world.app.replicas[number];
    try_eventually(LONG, "a proof", || {
        let status = node.status(world.app.http());
        (status["proven"] == true)
            .then_some(())
            .with_context(|| status.to_string())
    })?;
    let (proven, cpu) = (began.elapsed(), Cpu::now()?);
    // The allocator gives back a second later what is free.
    std::thread::sleep(SETTLED);
    let memory = memory_of(node.process.id())?;
    world.app.replicas.remove(number).process.kill9()?;
    Ok(Fresh {
        ready,
        proven,
        memory,
        cpu,
    })
}

/// Reads all users by `COPY`; gives the bytes.
async fn copy(database_url: &str) -> Result<u64> {
    let mut connection = PgConnection::connect(database_url).await?;
    let mut rows = connection
        .copy_out_raw("COPY (SELECT user_id, username, is_active, daily_quota, version, wire_keys FROM users) TO STDOUT")
        .await?;
    let mut bytes = 0;
    while let Some(part) = rows.try_next().await? {
        bytes += part.len() as u64;
    }
    drop(rows);
    // Ended before the replica is measured.
    connection.close().await?;
    Ok(bytes)
}
