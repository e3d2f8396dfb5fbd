//! Runs a full sync over server B's API and follows it to its end.

use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use crate::deadline::Deadline;
use crate::failure::Failure;
use crate::said::Said;
use crate::server_b::{FullSync, ServerB};

const POLL: Duration = Duration::from_millis(500);
/// Between two lines of progress.
const LINES: Duration = Duration::from_secs(2);
/// A running server B that reaches the broker takes a request much sooner.
const TAKEN_WITHIN: Duration = Duration::from_secs(5);
/// A sync fails when the broker goes away; another one may find it back.
const ATTEMPTS: u32 = 3;
const BETWEEN_ATTEMPTS: Duration = Duration::from_secs(2);

/// Waits until server B answers to the token, with its database.
pub async fn wait_for_server_b(b: &ServerB, deadline: Deadline) -> Result<(), Failure> {
    let mut said = Said::default();
    loop {
        match b.replicas().await {
            Ok(replicas) => {
                tracing::info!(
                    "server B answers; it knows {} live replicas",
                    replicas.len()
                );
                return Ok(());
            }
            Err(error) => {
                let reason = error.to_string();
                said.once(&format!("waiting for server B: {reason}"));
                if !deadline.pause(POLL).await {
                    return Err(Failure::ServerB(reason));
                }
            }
        }
    }
}

/// Runs a full sync to its end, and another one if it fails; `latest` is kept at what is known of it.
pub async fn run(
    b: &ServerB,
    deadline: Deadline,
    latest: &mut Option<FullSync>,
) -> Result<FullSync, Failure> {
    let mut attempt = 1;
    loop {
        let sync_id = request(b, deadline).await?;
        tracing::info!("full sync {sync_id} requested");
        let sync = follow(b, sync_id, deadline, latest).await?;
        if sync.status == "completed" {
            return Ok(sync);
        }
        let error = sync.error.as_deref().unwrap_or("no reason is recorded");
        tracing::warn!("full sync {sync_id} failed (attempt {attempt} of {ATTEMPTS}): {error}");
        if attempt == ATTEMPTS || !deadline.pause(BETWEEN_ATTEMPTS).await {
            return Err(Failure::Sync(format!("{sync_id} failed: {error}")));
        }
        attempt += 1;
    }
}

async fn request(b: &ServerB, deadline: Deadline) -> Result<Uuid, Failure> {
    let mut said = Said::default();
    loop {
        match b.request_full_sync().await {
            Ok(sync_id) => return Ok(sync_id),
            Err(error) => {
                said.once(&format!("asking for a full sync: {error}"));
                if !deadline.pause(POLL).await {
                    return Err(Failure::ServerB(error.to_string()));
                }
            }
        }
    }
}

/// Until it is `completed` or `failed`. Server B may be away meanwhile: the state is a row in its database.
async fn follow(
    b: &ServerB,
    sync_id: Uuid,
    deadline: Deadline,
    latest: &mut Option<FullSync>,
) -> Result<FullSync, Failure> {
    let mut said = Said::default();
    let mut progress = Progress::new(Instant::now());
    loop {
        let late = match b.full_sync(sync_id).await {
            Ok(sync) => {
                *latest = Some(sync.clone());
                if matches!(sync.status.as_str(), "completed" | "failed") {
                    tracing::info!("{}", line(&sync));
                    return Ok(sync);
                }
                if let Some(line) = progress.due(&sync, Instant::now()) {
                    tracing::info!("{line}");
                }
                Failure::Sync(format!("not done in time: {}", line(&sync)))
            }
            Err(error) if error.is_not_found() => {
                return Err(Failure::Sync(format!(
                    "{sync_id} is gone from server B's database: was an older state restored?"
                )));
            }
            Err(error) => {
                said.once(&format!("following the full sync: {error}"));
                Failure::ServerB(error.to_string())
            }
        };
        if !deadline.pause(POLL).await {
            return Err(late);
        }
    }
}

/// Lines about a sync under way: not too many, with the rate since the last one.
#[derive(Debug)]
struct Progress {
    since: Instant,
    last: Option<(Instant, u64)>,
}

impl Progress {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            last: None,
        }
    }

    fn due(&mut self, sync: &FullSync, now: Instant) -> Option<String> {
        if sync.status == "requested" {
            let untaken = now - self.since >= TAKEN_WITHIN;
            self.since = if untaken { now } else { self.since };
            return untaken.then(|| line(sync));
        }
        let (last, was) = self.last.unwrap_or((self.since, 0));
        if now - last < LINES {
            return None;
        }
        self.last = Some((now, sync.users_published));
        // Less than before: server B has begun it again.
        let users = sync.users_published.saturating_sub(was);
        let rate = u128::from(users) * 1000 / (now - last).as_millis().max(1);
        Some(format!("{}, {rate}/s", line(sync)))
    }
}

/// How a sync stands, as a line of the log.
pub fn line(sync: &FullSync) -> String {
    let FullSync {
        sync_id, status, ..
    } = sync;
    if status == "requested" {
        return format!(
            "full sync {sync_id} waits for its turn: no server B that reaches RabbitMQ has taken it"
        );
    }
    let of = sync
        .users_total
        .map_or(String::new(), |total| format!(" of {total}"));
    format!(
        "full sync {sync_id} {status}: {}{of} users",
        sync.users_published
    )
}

#[cfg(test)]
#[path = "full_sync_tests.rs"]
mod tests;
