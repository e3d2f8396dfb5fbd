//! Commit → every replica has applied the change, beside a bare commit and a bare publish.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use lapin::Channel;
use lapin::message::Delivery;
use server_a::cache::UserCache;
use service_runtime::amqp::event_type;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use test_support::{TestServers, TestVhost};
use tokio::task::JoinSet;
use wire_contract::{CONFIG_EVENTS_EXCHANGE, ConfigEvent};

use super::memory::filled_cache;
use super::relay;
use crate::bare::listener::{self, Listener};
use crate::bare::publisher;
use crate::bench::{self, Bench, LONG, World};
use crate::report::{Aim, Report};
use crate::stats;

/// Connections that write; enough for the highest rate.
const WRITERS: u32 = 8;
/// Few enough that the relay sleeps before each.
const IDLE: u32 = 4;
const MS: [(&str, f64); 2] = [("p50 ms", 0.5), ("p99 ms", 0.99)];
/// How often an open load hands out what is due.
const SLICE: Duration = Duration::from_millis(1);

type Times = Arc<Mutex<HashMap<i64, Instant>>>;

/// Where writes go and who listens.
struct Way<'a> {
    world: &'a World,
    /// The broker of the bare variant, and the payload that it publishes.
    bare: Option<(&'a TestVhost, Arc<Vec<u8>>)>,
}

/// The readers are replicas in this process: a queue like a replica's, and the cache that server A links.
pub fn run(bench: &Bench) -> Result<Report> {
    let world = bench::own_world(bench.pick(10_000, 2_000))?;
    world.sql("CREATE TABLE plain_users (LIKE users INCLUDING ALL)")?;
    world.sql("INSERT INTO plain_users OVERRIDING SYSTEM VALUE SELECT * FROM users")?;
    let vhost = TestServers::shared().fresh_vhost();
    let body = Arc::new(bench.block_on(relay::sample(&world))?);
    let product = Way {
        world: &world,
        bare: None,
    };
    let bare = Way {
        world: &world,
        bare: Some((&vhost, body)),
    };
    let rates = bench.pick(&[IDLE, 500, 2_000][..], &[IDLE, 500]);
    let mut report = Report::new("lag");
    for _ in bench.rounds() {
        for &rate in rates {
            for replicas in [1, 4] {
                for (name, way) in [("product", &product), ("bare", &bare)] {
                    let variant = variant(name, rate, replicas);
                    let lags = bench.block_on(lags(way, rate, replicas, bench.run_for(5)))?;
                    for (measure, at) in MS {
                        report.add(&variant, measure, stats::quantile(&lags, at));
                    }
                }
            }
        }
    }
    for &rate in rates {
        for replicas in [1, 4] {
            let (of, to) = (
                variant("product", rate, replicas),
                variant("bare", rate, replicas),
            );
            report.ratio(&of, &to, "p50 ms", Some(Aim::AtMost(2.0)));
            report.ratio(&of, &to, "p99 ms", Some(Aim::AtMost(4.0)));
        }
        let (four, one) = (variant("product", rate, 4), variant("product", rate, 1));
        report.ratio(&four, &one, "p50 ms", Some(Aim::AtMost(1.5)));
    }
    report.note(format!(
        "From the moment at which a write is sent to PostgreSQL, its commit included, until the last replica has applied \
         it. {IDLE} writes/s is idle: the relay sleeps before each."
    ));
    Ok(report)
}

fn variant(name: &str, rate: u32, replicas: usize) -> String {
    format!("{name}, {rate}/s, {replicas} replicas")
}

/// Milliseconds of each write until the last of the replicas had it.
async fn lags(way: &Way<'_>, rate: u32, replicas: usize, lasts: Duration) -> Result<Vec<f64>> {
    let url = way
        .bare
        .as_ref()
        .map_or(way.world.rabbitmq_url.as_str(), |(vhost, _)| vhost.url());
    let (mut listeners, mut applied) = (Vec::new(), Vec::new());
    for _ in 0..replicas {
        let (times, is_bare) = (Times::default(), way.bare.is_some());
        let cache = filled_cache(way.world.users);
        applied.push(Arc::clone(&times));
        let replica = move |delivery: &Delivery| note(&times, delivery, &cache, is_bare);
        listeners.push(Listener::start(url, replica).await?);
    }
    let sent = write(way, rate, lasts).await?;
    listener::all_seen(&listeners, sent.len() as u64, LONG).await?;
    for listener in listeners {
        listener.stop().await;
    }
    let mut lags = Vec::with_capacity(sent.len());
    for (id, at) in sent {
        let mut last = at;
        for times in &applied {
            let times = times.lock().unwrap_or_else(PoisonError::into_inner);
            last = last.max(*times.get(&id).context("a change that did not come")?);
        }
        lags.push((last - at).as_secs_f64() * 1e3);
    }
    Ok(lags)
}

/// A change as a replica takes it: decoded and applied. The bare one is only looked at.
fn note(times: &Times, delivery: &Delivery, cache: &UserCache, is_bare: bool) -> bool {
    let id = if is_bare {
        let id = delivery.properties.app_id().as_ref();
        id.and_then(|id| id.as_str().parse().ok())
    } else {
        match ConfigEvent::decode(event_type(delivery), &delivery.data) {
            Ok(Some(ConfigEvent::UserUpdated(event))) => {
                let version = event.user.version;
                cache.apply(ConfigEvent::UserUpdated(event));
                Some(version)
            }
            _ => None,
        }
    };
    if let Some(id) = id {
        let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
        times.insert(id, Instant::now());
    }
    id.is_some()
}

/// Open load: what is due is handed out whether or not the last has come back. Gives when each write was sent.
async fn write(way: &Way<'_>, rate: u32, lasts: Duration) -> Result<Vec<(i64, Instant)>> {
    let pool = PgPoolOptions::new()
        .max_connections(WRITERS)
        .min_connections(WRITERS)
        .connect(&way.world.database_url)
        .await?;
    let bare = match &way.bare {
        Some((vhost, body)) => Some((publisher::channel(vhost.url()).await?, Arc::clone(body))),
        None => None,
    };
    let users = i64::try_from(way.world.users)?;
    let (began, mut number) = (Instant::now(), 0_u32);
    let mut writes = JoinSet::new();
    while began.elapsed() < lasts || number == 0 {
        let due = (began.elapsed().as_secs_f64() * f64::from(rate)).ceil();
        while f64::from(number) < due {
            let user = i64::from(number) % users + 1;
            writes.spawn(write_one(pool.clone(), bare.clone(), user, number));
            number += 1;
        }
        tokio::time::sleep(SLICE).await;
    }
    let mut sent = Vec::new();
    while let Some(write) = writes.join_next().await {
        sent.push(write??);
    }
    pool.close().await;
    if let Some((channel, _)) = bare {
        channel.close(200, "bye".into()).await?;
    }
    Ok(sent)
}

/// A write in its transaction; the bare variant publishes it itself. Gives its id and when it was sent.
async fn write_one(
    pool: PgPool,
    bare: Option<(Channel, Arc<Vec<u8>>)>,
    user: i64,
    number: u32,
) -> Result<(i64, Instant)> {
    let mut connection = pool.acquire().await?;
    let at = Instant::now();
    let Some((channel, body)) = bare else {
        let version: i64 = sqlx::query_scalar(
            "UPDATE users SET daily_quota = 1000000 + (daily_quota + 1) % 1000 WHERE user_id = $1 RETURNING version",
        )
        .bind(user)
        .fetch_one(&mut *connection)
        .await?;
        return Ok((version, at));
    };
    sqlx::query("UPDATE plain_users SET daily_quota = 1000000 + (daily_quota + 1) % 1000 WHERE user_id = $1")
        .bind(user)
        .execute(&mut *connection)
        .await?;
    drop(connection);
    publisher::publish_tagged(&channel, CONFIG_EVENTS_EXCHANGE, number, &body).await?;
    Ok((i64::from(number), at))
}
