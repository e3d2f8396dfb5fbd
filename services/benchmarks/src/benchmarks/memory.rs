//! Bytes per cached user, beside the naive map.

use std::collections::HashMap;
use std::env;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use server_a::cache::{Limits, UserCache};
use time::OffsetDateTime;
use uuid::Uuid;
use wire_contract::{
    ApiKey, ConfigEvent, DIGEST_VERSION, KeyDigest, Position, SnapshotChunk, SnapshotCompleted,
    SnapshotStarted, UserRecord, UserSetDigest,
};

use crate::bench::Bench;
use crate::measure::memory_of;
use crate::report::{Aim, Report};
use crate::stats;
use crate::users;

/// Users of one chunk, as server B sends them.
const CHUNK: u64 = 500;
/// Names what a fresh process of this program is to hold, as `cache:1000000`.
const WEIGH: &str = "BENCHMARKS_WEIGH";
const MEASURE: &str = "bytes/user";

/// A user as one would write it down at first.
#[expect(dead_code, reason = "only weighed")]
struct User {
    id: i64,
    username: String,
    is_active: bool,
    daily_quota: i32,
    version: i64,
}

/// Each variant fills a process of its own, and its growth is what counts.
pub fn run(bench: &Bench) -> Result<Report> {
    let users = bench.pick(1_000_000, 20_000);
    let mut report = Report::new("memory");
    for _ in bench.rounds() {
        for (variant, name) in [("cache", "cache"), ("HashMap<String, User>", "map")] {
            report.add(variant, MEASURE, weigh(name, users)?);
        }
    }
    report.hold("cache", MEASURE, Aim::AtMost(120.0));
    report.ratio("cache", "HashMap<String, User>", MEASURE, None);
    report.note(format!(
        "{users} users with names like user-123456; the cache finds them by the first 16 bytes of their key's digest, \
         the map by the key itself ({} characters).",
        users::key(users).len()
    ));
    Ok(report)
}

fn weigh(what: &str, users: u64) -> Result<f64> {
    let output = Command::new(env::current_exe()?)
        .env(WEIGH, format!("{what}:{users}"))
        .output()
        .context("starting our own program")?;
    ensure!(output.status.success(), "weighing {what} failed");
    let text = String::from_utf8(output.stdout)?;
    text.trim().parse().context("a number")
}

/// In the process that [`run`] starts: bytes per user.
pub fn weigh_if_asked() -> Option<f64> {
    let order = env::var(WEIGH).ok()?;
    let (what, users) = order.split_once(':')?;
    let users = users.parse().ok()?;
    let resident = || memory_of(std::process::id()).ok().map(|it| it.resident);
    let before = resident()?;
    let after = if what == "cache" {
        let cache = filled_cache(users);
        let after = resident()?;
        drop(std::hint::black_box(cache));
        after
    } else {
        let map = filled_map(users);
        let after = resident()?;
        drop(std::hint::black_box(map));
        after
    };
    Some(stats::number(after.saturating_sub(before)) / stats::number(users))
}

fn filled_map(users: u64) -> HashMap<String, User> {
    let mut map = HashMap::new();
    for number in 1..=users {
        let user = User {
            id: user_id(number),
            username: format!("user-{number}"),
            is_active: true,
            daily_quota: 1000,
            version: user_id(number),
        };
        map.insert(users::key(number), user);
    }
    map
}

/// A cache that has had its first snapshot, through the events that it comes by.
pub fn filled_cache(users: u64) -> UserCache {
    let cache = UserCache::new(Limits {
        fail_closed_after: Duration::from_hours(1),
        max_staleness: Duration::from_hours(1),
    });
    let (snapshot_id, as_of) = (
        Uuid::now_v7(),
        Position {
            epoch: 1,
            sequence: 1,
        },
    );
    cache.subscribed();
    cache.apply(ConfigEvent::SnapshotStarted(SnapshotStarted {
        snapshot_id,
        credit_queue: "credit".to_owned(),
        window: 16,
        users: Some(users),
    }));
    let mut digest = UserSetDigest::default();
    for index in 0..users.div_ceil(CHUNK) {
        let rows = index * CHUNK + 1..=((index + 1) * CHUNK).min(users);
        let rows: Vec<UserRecord> = rows.map(record).collect();
        for row in &rows {
            digest += UserSetDigest::of_user(row);
        }
        cache.apply(ConfigEvent::SnapshotChunk(SnapshotChunk {
            snapshot_id,
            index: u32::try_from(index).unwrap_or(u32::MAX),
            as_of,
            users: rows,
        }));
    }
    cache.apply(ConfigEvent::SnapshotCompleted(SnapshotCompleted {
        snapshot_id,
        position: as_of,
        comparable_from: 1,
        count: users,
        digest,
        digest_version: DIGEST_VERSION,
    }));
    cache
}

/// The n-th user.
pub fn record(number: u64) -> UserRecord {
    UserRecord {
        user_id: user_id(number),
        api_key: Some(ApiKey::Digest(KeyDigest::of(&users::key(number)))),
        username: format!("user-{number}"),
        is_active: true,
        daily_quota: 1000,
        previous_keys: Vec::new(),
        version: user_id(number),
    }
}

fn user_id(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A change of the n-th user, as the stream brings it.
pub fn change(number: u64, sequence: i64) -> ConfigEvent {
    ConfigEvent::UserUpdated(wire_contract::UserUpdated {
        user: UserRecord {
            version: i64::MAX / 2 + sequence,
            daily_quota: 2000,
            ..record(number)
        },
        epoch: 1,
        sequence: Some(sequence),
        sync_id: None,
        as_of: None,
        occurred_at: OffsetDateTime::now_utc(),
    })
}
