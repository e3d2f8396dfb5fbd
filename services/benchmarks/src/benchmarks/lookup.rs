//! From the key in the header to the cached user, with and without changes being applied.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use server_a::cache::UserCache;
use time::OffsetDateTime;
use wire_contract::KeyDigest;

use super::memory::{change, filled_cache};
use crate::bench::Bench;
use crate::report::{Aim, Report};
use crate::stats;
use crate::users;

/// Changes a second, and how many come at once.
const UPDATES: u32 = 2_000;
const AT_ONCE: u32 = 10;
/// Keys that a thread asks for in turn.
const KEYS: u64 = 100_000;

/// In this process, on the cache that server A links.
pub fn run(bench: &Bench) -> Result<Report> {
    let users = bench.pick(1_000_000, 20_000);
    let look_ups = bench.pick(1_000_000, 50_000);
    let cache = filled_cache(users);
    let mut report = Report::new("lookup");
    let mut sequence = 1;
    for _ in bench.rounds() {
        for threads in [1, 2] {
            for updating in [false, true] {
                let variant = variant(threads, updating);
                let writer = updating.then(|| Writer::start(&cache, users, sequence));
                let times = look_up(&cache, users, threads, look_ups)?;
                if let Some(writer) = writer {
                    sequence = writer.stop()?;
                }
                for (name, at) in [("p50 ns", 0.5), ("p99 ns", 0.99)] {
                    report.add(&variant, name, stats::quantile(&times, at));
                }
                let mean = times.iter().sum::<f64>() / stats::number(times.len() as u64);
                report.add(&variant, "mean ns", mean);
            }
        }
        let empty: Vec<f64> = (0..look_ups / 10)
            .map(|_| nanoseconds(Instant::now().elapsed()))
            .collect();
        report.add("the clock itself", "p50 ns", stats::median(&empty));
        let hashes: Vec<f64> = (0..look_ups / 10)
            .map(|number| {
                let key = users::key(number);
                let began = Instant::now();
                std::hint::black_box(KeyDigest::of(&key));
                nanoseconds(began.elapsed())
            })
            .collect();
        report.add("SHA-256 of a key", "p50 ns", stats::median(&hashes));
        report.add("SHA-256 of a key", "p99 ns", stats::quantile(&hashes, 0.99));
    }
    for threads in [1, 2] {
        let (still, updated) = (variant(threads, false), variant(threads, true));
        report.hold(&updated, "p99 ns", Aim::AtMost(1_000.0));
        report.ratio(&updated, &still, "p50 ns", Some(Aim::AtMost(1.1)));
        report.ratio(&updated, &still, "mean ns", None);
    }
    report.note(format!(
        "{users} users, random keys. Each look-up is timed by itself: admission, SHA-256 of the key, look-up; the clock \
         is in every value. Updated: {UPDATES} changes/s are applied meanwhile."
    ));
    Ok(report)
}

fn variant(threads: usize, updating: bool) -> String {
    let updated = if updating { ", updated" } else { "" };
    format!("{threads} threads{updated}")
}

fn look_up(cache: &UserCache, users: u64, threads: usize, look_ups: u64) -> Result<Vec<f64>> {
    thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|_| scope.spawn(move || look_up_alone(cache, users, look_ups)))
            .collect();
        let mut times = Vec::new();
        for thread in running {
            times.extend(thread.join().ok().context("a look-up failed")?);
        }
        Ok(times)
    })
}

fn look_up_alone(cache: &UserCache, users: u64, look_ups: u64) -> Vec<f64> {
    let keys: Vec<String> = (0..KEYS.min(look_ups))
        .map(|_| users::key(rand::random_range(1..=users)))
        .collect();
    let now = OffsetDateTime::now_utc().unix_timestamp() * 1_000_000;
    let mut times = Vec::new();
    for key in keys
        .iter()
        .cycle()
        .take(usize::try_from(look_ups).unwrap_or(usize::MAX))
    {
        let began = Instant::now();
        let admission = cache.admission();
        let found = cache.look_up(&KeyDigest::of(key), now);
        times.push(nanoseconds(began.elapsed()));
        assert!(admission.is_ok() && found.is_some(), "a user was not found");
    }
    times
}

fn nanoseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9
}

/// Applies changes at a steady rate.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<i64>,
}

impl Writer {
    fn start(cache: &UserCache, users: u64, mut sequence: i64) -> Self {
        let (cache, stop) = (cache.clone(), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut next = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                for _ in 0..AT_ONCE {
                    sequence += 1;
                    cache.apply(change(rand::random_range(1..=users), sequence));
                }
                next += Duration::from_secs(1) * AT_ONCE / UPDATES;
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            sequence
        });
        Self { stop, thread }
    }

    fn stop(self) -> Result<i64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().ok().context("the writer failed")
    }
}
