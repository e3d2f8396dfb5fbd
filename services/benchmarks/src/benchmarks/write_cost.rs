//! What trigger and outbox cost a write to `users`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use sqlx::PgConnection;
use sqlx::postgres::PgPoolOptions;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::bench::{self, Bench, LONG, World};
use crate::measure::Cpu;
use crate::report::{Aim, Report};
use crate::stats;

const RATE: &str = "writes/s";
const WARM_UP: Duration = Duration::from_millis(300);
const PLAIN: &str = "no trigger";
const TRIGGER: &str = "trigger and outbox";
const RELAYED: &str = "trigger, relayed";

/// A table without what makes an event of a write.
const PLAIN_TABLE: &str = "CREATE TABLE plain_users (LIKE users INCLUDING ALL);
                           INSERT INTO plain_users OVERRIDING SYSTEM VALUE SELECT * FROM users;
                           VACUUM ANALYZE plain_users";

/// Server B runs only where its relay is part of what is measured.
pub fn run(bench: &Bench) -> Result<Report> {
    let users = bench.pick(100_000, 2_000);
    let mut world = bench::own_world(users)?;
    for statement in PLAIN_TABLE.split(';') {
        world.sql(statement)?;
    }
    let mut report = Report::new("write-cost");
    for _ in bench.rounds() {
        for writers in [8, 32] {
            let variant = |name: &str| format!("{name}, {writers} writers");
            world.app.kill_b();
            // Nobody listens, and the trigger is to know it.
            world.sql("UPDATE relay_state SET sleeping = false")?;
            for (name, table) in [(PLAIN, "plain_users"), (TRIGGER, "users")] {
                write(bench, &world, &mut report, &variant(name), table, writers)?;
                world.sql("TRUNCATE outbox")?;
            }
            world.app.start_all(0);
            write(
                bench,
                &world,
                &mut report,
                &variant(RELAYED),
                "users",
                writers,
            )?;
            world.wait_relayed()?;
        }
    }
    for writers in [8, 32] {
        let variant = |name: &str| format!("{name}, {writers} writers");
        let aim = Some(Aim::AtLeast(0.8));
        report.ratio(&variant(TRIGGER), &variant(PLAIN), RATE, aim);
        report.ratio(&variant(RELAYED), &variant(PLAIN), RATE, None);
        report.ratio_of_cpu(&variant(TRIGGER), &variant(PLAIN));
        report.ratio_of_cpu(&variant(RELAYED), &variant(PLAIN));
    }
    report.note(format!(
        "{users} users; each write changes one user's quota in a transaction of its own, with fsync on."
    ));
    Ok(report)
}

fn write(
    bench: &Bench,
    world: &World,
    report: &mut Report,
    variant: &str,
    table: &'static str,
    writers: u32,
) -> Result<()> {
    let lasts = bench.run_for(4);
    let load = writes(&world.database_url, table, world.users, writers, lasts);
    let (written, used) = bench.block_on(load)?;
    report.add(variant, RATE, stats::number(written) / lasts.as_secs_f64());
    report.add_cpu(
        variant,
        &used,
        written,
        &["postgresql", "server-b", "benchmarks"],
    );
    Ok(())
}

async fn writes(
    database_url: &str,
    table: &'static str,
    users: u64,
    writers: u32,
    lasts: Duration,
) -> Result<(u64, BTreeMap<String, Duration>)> {
    let pool = PgPoolOptions::new()
        .max_connections(writers)
        .min_connections(writers)
        .connect(database_url)
        .await?;
    let users = i64::try_from(users)?;
    // Each user in its turn: writers do not wait for each other's rows.
    let next = Arc::new(AtomicI64::new(rand::random_range(0..users)));
    let ready = Arc::new(Barrier::new(writers as usize + 1));
    let mut tasks = JoinSet::new();
    for _ in 0..writers {
        let (pool, next, ready) = (pool.clone(), Arc::clone(&next), Arc::clone(&ready));
        tasks.spawn(async move {
            let mut connection = pool.acquire().await?;
            // A session plans and compiles what it runs for the first time.
            write_alone(&mut connection, &next, table, users, WARM_UP).await?;
            ready.wait().await;
            write_alone(&mut connection, &next, table, users, lasts).await
        });
    }
    let all_ready = tokio::time::timeout(LONG, ready.wait());
    all_ready.await.context("a writer does not start")?;
    let before = Cpu::now()?;
    let mut written = 0;
    while let Some(task) = tasks.join_next().await {
        written += task??;
    }
    let used = Cpu::now()?.since(&before);
    pool.close().await;
    Ok((written, used))
}

async fn write_alone(
    connection: &mut PgConnection,
    next: &AtomicI64,
    table: &'static str,
    users: i64,
    lasts: Duration,
) -> Result<u64> {
    let end = Instant::now() + lasts;
    let statement = if table == "users" {
        "UPDATE users SET daily_quota = 1000000 + (daily_quota + 1) % 1000 WHERE user_id = $1"
    } else {
        "UPDATE plain_users SET daily_quota = 1000000 + (daily_quota + 1) % 1000 WHERE user_id = $1"
    };
    let mut written = 0;
    while Instant::now() < end {
        let user = next.fetch_add(1, Ordering::Relaxed) % users + 1;
        let done = sqlx::query(statement)
            .bind(user)
            .execute(&mut *connection)
            .await?;
        written += done.rows_affected();
    }
    Ok(written)
}
