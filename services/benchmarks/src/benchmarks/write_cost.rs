//! What trigger and outbox cost a write to `users`.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::task::JoinSet;

use crate::bench::{self, Bench, World};
use crate::measure::Cpu;
use crate::report::{Aim, Report};
use crate::stats;

const RATE: &str = "writes/s";
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
    let before = Cpu::now()?;
    let load = writes(
        &world.database_url,
        table,
        world.users,
        writers,
        bench.run_for(4),
    );
    let (written, took) = bench.block_on(load)?;
    let used = Cpu::now()?.since(&before);
    report.add(variant, RATE, stats::number(written) / took.as_secs_f64());
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
) -> Result<(u64, Duration)> {
    let pool = PgPoolOptions::new()
        .max_connections(writers)
        .min_connections(writers)
        .connect(database_url)
        .await?;
    let (began, users) = (Instant::now(), i64::try_from(users)?);
    // Each user in its turn: writers do not wait for each other's rows.
    let next = Arc::new(AtomicI64::new(rand::random_range(0..users)));
    let mut tasks = JoinSet::new();
    for _ in 0..writers {
        let (pool, next) = (pool.clone(), Arc::clone(&next));
        tasks.spawn(async move { write_alone(&pool, &next, table, users, began + lasts).await });
    }
    let mut written = 0;
    while let Some(task) = tasks.join_next().await {
        written += task??;
    }
    let took = began.elapsed();
    pool.close().await;
    Ok((written, took))
}

async fn write_alone(
    pool: &PgPool,
    next: &AtomicI64,
    table: &'static str,
    users: i64,
    end: Instant,
) -> Result<u64> {
    let statement = if table == "users" {
        "UPDATE users SET daily_quota = daily_quota % 1000 + 1 WHERE user_id = $1"
    } else {
        "UPDATE plain_users SET daily_quota = daily_quota % 1000 + 1 WHERE user_id = $1"
    };
    let mut connection = pool.acquire().await?;
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
