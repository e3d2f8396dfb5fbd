//! What a replica tells server B: snapshot requests, credit, reports.
//!
//! None of it is worth waiting for: a request is repeated until it is answered, credit and reports
//! carry totals. A message that was not confirmed is counted and left.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use parking_lot::Mutex;
use service_runtime::amqp::{
    Connector, Message, PublishError, Publisher, PublisherTask, declare_queue,
};
use time::OffsetDateTime;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use wire_contract::{
    CONFIG_REPLICA_REPORTS, CONFIG_SNAPSHOT_REQUESTS, ReplicaPing, ReplicaProbe, ReplicaReport,
    SnapshotCause, SnapshotCredit, SnapshotRequest, encode_json, specs,
};

use super::metrics;
use crate::cache::UserCache;

/// A request that nobody took by then is of no use: the replica asks again.
const REQUEST_EXPIRES_MS: u64 = 30_000;
/// A report tells where the replica stands now; one that nobody took by then would bring a replica back to life that is gone.
const REPORT_EXPIRES_MS: u64 = 5_000;

/// Of messages, as they are counted.
pub(super) const KINDS: [&str; 5] = [
    SNAPSHOT_REQUEST,
    REPLICA_PROBE,
    REPLICA_PING,
    SNAPSHOT_CREDIT,
    REPLICA_REPORT,
];
const SNAPSHOT_REQUEST: &str = "snapshot_request";
const REPLICA_PROBE: &str = "replica_probe";
const REPLICA_PING: &str = "replica_ping";
const SNAPSHOT_CREDIT: &str = "snapshot_credit";
const REPLICA_REPORT: &str = "replica_report";

/// Sends without waiting. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Control {
    publisher: Publisher,
    instance: Arc<str>,
    reporting: Arc<AtomicBool>,
    reports: Arc<AtomicU64>,
    pinging: Arc<AtomicBool>,
    due_back: Arc<Mutex<Option<Instant>>>,
    /// Snapshots whose sender's credit queue is gone.
    dead: Arc<Mutex<HashSet<Uuid>>>,
}

impl Control {
    /// The sender, and the task that must run for it.
    #[must_use]
    pub fn new(
        connector: Connector,
        instance: &str,
        shutdown: CancellationToken,
    ) -> (Self, PublisherTask) {
        let (publisher, task) = Publisher::new(
            connector,
            "control",
            |channel| {
                async move {
                    declare_queue(&channel, &specs::snapshot_requests()).await?;
                    declare_queue(&channel, &specs::replica_reports()).await?;
                    Ok(())
                }
                .boxed()
            },
            shutdown,
        );
        let control = Self {
            publisher,
            instance: instance.into(),
            reporting: Arc::default(),
            reports: Arc::default(),
            pinging: Arc::default(),
            due_back: Arc::default(),
            dead: Arc::default(),
        };
        (control, task)
    }

    /// Whether anything can be sent now.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.publisher.is_open()
    }

    /// Asks for all users into `queue`; a repetition has the same id.
    pub fn request_snapshot(&self, request_id: Uuid, queue: &str, cause: SnapshotCause) {
        let request = SnapshotRequest {
            request_id,
            queue: queue.to_owned(),
            instance: self.instance.to_string(),
            cause,
        };
        let mut message = Message::to_queue(
            CONFIG_SNAPSHOT_REQUESTS,
            "snapshot.request",
            encode_json(&request),
        );
        message.expiration_ms = Some(REQUEST_EXPIRES_MS);
        self.send(message, SNAPSHOT_REQUEST);
    }

    /// Asks whether server B is there.
    pub fn probe(&self, queue: &str) {
        let probe = ReplicaProbe {
            queue: queue.to_owned(),
            instance: self.instance.to_string(),
        };
        let mut message = Message::to_queue(
            CONFIG_SNAPSHOT_REQUESTS,
            "replica.probe",
            encode_json(&probe),
        );
        message.persistent = false;
        message.expiration_ms = Some(REQUEST_EXPIRES_MS);
        self.send(message, REPLICA_PROBE);
    }

    /// Sends a ping into the own queue; none while the last one is not confirmed. The time in it counts from `began`.
    pub fn ping(&self, queue: &str, began: Instant, cache: &UserCache) {
        if self.pinging.swap(true, Ordering::AcqRel) {
            return;
        }
        let sent_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        // As it will be told when it comes back: to the microsecond.
        let sent = began + Duration::from_micros(sent_us);
        let ping = ReplicaPing { sent_us };
        let mut message = Message::to_queue(queue, ReplicaPing::TYPE, encode_json(&ping));
        message.persistent = false;
        let (control, cache) = (self.clone(), cache.clone());
        tokio::spawn(async move {
            match control.publisher.publish(message).await {
                Ok(()) => {
                    let mut due = control.due_back.lock();
                    if due.is_none_or(|due| due <= cache.up_to_date_at()) {
                        *due = Some(sent);
                    }
                }
                Err(_) => metrics::control_lost(REPLICA_PING),
            }
            control.pinging.store(false, Ordering::Release);
        });
    }

    /// When the first ping was sent that the broker has put into the queue and that has not come out.
    #[must_use]
    pub fn due_back(&self, cache: &UserCache) -> Option<Instant> {
        let due = *self.due_back.lock();
        due.filter(|due| *due > cache.up_to_date_at())
    }

    /// Lets server B send more chunks.
    pub fn credit(&self, credit_queue: String, credit: &SnapshotCredit) {
        let mut message = Message::to_queue(credit_queue, "snapshot.credit", encode_json(credit));
        message.persistent = false;
        let (publisher, dead, id) = (
            self.publisher.clone(),
            Arc::clone(&self.dead),
            credit.snapshot_id,
        );
        tokio::spawn(async move {
            match publisher.publish(message).await {
                Ok(()) => {}
                // The queue dies with the server B that sends the snapshot.
                Err(PublishError::Unroutable) => {
                    dead.lock().insert(id);
                }
                Err(_) => metrics::control_lost(SNAPSHOT_CREDIT),
            }
        });
    }

    /// Whether the sender of a snapshot is known to be gone; tells it once.
    #[must_use]
    pub fn is_dead(&self, snapshot_id: Uuid) -> bool {
        self.dead.lock().remove(&snapshot_id)
    }

    /// Forgets the senders of all other snapshots.
    pub fn retain_dead(&self, is_under_way: impl Fn(Uuid) -> bool) {
        self.dead.lock().retain(|id| is_under_way(*id));
    }

    /// Tells where the replica stands; skipped while the last report is still on its way.
    pub fn report(&self, queue: &str, cache: &UserCache, ready: bool) {
        if self.reporting.swap(true, Ordering::AcqRel) {
            return;
        }
        let proven = cache.proven();
        let report = cache.read(|state| ReplicaReport {
            instance: self.instance.to_string(),
            queue: queue.to_owned(),
            number: self.reports.fetch_add(1, Ordering::Relaxed),
            ready,
            applied: state.applied().unwrap_or_default(),
            seen: state.seen().unwrap_or_default(),
            proven,
            users: state.len(),
            syncing: state.syncing(),
            last_sync_id: state.last_sync_id(),
            fail_closed_after_ms: u64::try_from(cache.limits().fail_closed_after.as_millis())
                .unwrap_or(u64::MAX),
            reported_at: OffsetDateTime::now_utc(),
        });
        let mut message = Message::to_queue(
            CONFIG_REPLICA_REPORTS,
            "replica.report",
            encode_json(&report),
        );
        message.persistent = false;
        message.expiration_ms = Some(REPORT_EXPIRES_MS);
        let reporting = Arc::clone(&self.reporting);
        let publisher = self.publisher.clone();
        tokio::spawn(async move {
            if publisher.publish(message).await.is_err() {
                metrics::control_lost(REPLICA_REPORT);
            }
            reporting.store(false, Ordering::Release);
        });
    }

    fn send(&self, message: Message, what: &'static str) {
        let publisher = self.publisher.clone();
        tokio::spawn(async move {
            if let Err(error) = publisher.publish(message).await {
                metrics::control_lost(what);
                tracing::warn!(what, %error, "message to server B was not confirmed");
            }
        });
    }
}
