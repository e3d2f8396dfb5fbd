//! The user cache: one writer, many readers.

mod state;
mod username;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::time::Instant;
use uuid::Uuid;
use wire_contract::{Admission, ConfigEvent, KeyDigest, Position, SnapshotCredit, UserId};

#[cfg(feature = "model")]
pub use state::Rule;
pub use state::{CacheState, Effect, SourceProgress};
pub use username::Username;

/// A cached user (requirement 2.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientConfig {
    /// Stable primary key of server B.
    pub user_id: UserId,
    /// Unique name.
    pub username: Username,
    /// Whether sends are accepted.
    pub is_active: bool,
    /// SMS segments a UTC day.
    pub daily_quota: i32,
}

/// Three bookmarks, which come once a second.
const PROOF_HOLDS: Duration = Duration::from_secs(3);

/// How long the cache is served after it could last be trusted.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// After the subscription broke: a revocation may have been missed.
    pub fail_closed_after: Duration,
    /// After server B fell silent on a subscription that is whole.
    pub max_staleness: Duration,
}

/// Why the cache must not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotServing {
    /// For `/readyz` and the client.
    pub reason: String,
}

impl fmt::Display for NotServing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

/// What is known of the subscription.
#[derive(Debug, Clone, Copy)]
struct Subscription {
    /// Since when what the cache holds may be out of date; `None` while the subscription is whole.
    broken_since: Option<Instant>,
    /// When the stream was last heard: a change or a bookmark.
    heard: Instant,
    /// By then all that had come into the own queue was taken: when the last [`wire_contract::ReplicaPing`] that came back was
    /// sent. Not when something was last heard: what comes over a slow link, or after a pause of the process, may be old.
    link: Instant,
    /// When the digest last equalled the database's.
    proven: Option<Instant>,
    /// Since when changes are known to be missing (a gap, a snapshot that has yet to come).
    incomplete_since: Option<Instant>,
}

/// The cache as the rest of the process sees it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct UserCache {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: RwLock<CacheState>,
    subscription: RwLock<Subscription>,
    limits: Limits,
}

impl UserCache {
    /// An empty cache that does not serve yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let now = Instant::now();
        Self {
            shared: Arc::new(Shared {
                state: RwLock::new(CacheState::new()),
                subscription: RwLock::new(Subscription {
                    broken_since: Some(now),
                    heard: now,
                    link: now,
                    proven: None,
                    incomplete_since: None,
                }),
                limits,
            }),
        }
    }

    /// The user that presents this key, unless it is unknown or has expired.
    #[must_use]
    pub fn look_up(&self, presented_key: &KeyDigest, now_micros: i64) -> Option<ClientConfig> {
        let digest = presented_key.short();
        self.shared.state.read().look_up(&digest, now_micros)
    }

    /// Which state of the cache lets a request in now.
    ///
    /// # Errors
    /// When the cache is not complete, or too old to be trusted.
    pub fn admission(&self) -> Result<Admission, NotServing> {
        let position = {
            let state = self.shared.state.read();
            if !state.is_complete() {
                return Err(not_serving("the user cache is not complete yet"));
            }
            state.last_applied().unwrap_or_default()
        };
        let subscription = *self.shared.subscription.read();
        // Read once: on the way of every request the clock is no small part.
        let now = Instant::now();
        let since = |at: Instant| now.duration_since(at);
        let age = since(subscription.heard).max(since(subscription.link));
        let limits = self.shared.limits;
        let broken = subscription
            .broken_since
            .map_or(Duration::ZERO, since)
            .max(since(subscription.link));
        if broken > limits.fail_closed_after {
            return Err(not_serving(&format!(
                "the subscription to user changes has been broken for longer than {} s",
                limits.fail_closed_after.as_secs()
            )));
        }
        let incomplete = subscription.incomplete_since.map(since);
        if incomplete.is_some_and(|missing| missing > limits.max_staleness) {
            return Err(not_serving(&format!(
                "changes of users have been missing for longer than {} s",
                limits.max_staleness.as_secs()
            )));
        }
        if since(subscription.heard) > limits.max_staleness {
            return Err(not_serving(&format!(
                "server B has been silent for longer than {} s",
                limits.max_staleness.as_secs()
            )));
        }
        Ok(Admission {
            epoch: position.epoch,
            sequence: position.sequence,
            cache_age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// Takes one event in. Only the sync task calls this.
    #[expect(clippy::must_use_candidate, reason = "called for what it does")]
    pub fn apply(&self, event: ConfigEvent) -> Effect {
        let (effect, whole) = {
            let mut state = self.shared.state.write();
            (state.apply(event), state.applied().is_some())
        };
        let mut subscription = self.shared.subscription.write();
        let now = Instant::now();
        subscription.heard = now;
        match effect {
            Effect::Proven => subscription.proven = Some(now),
            Effect::Mismatch | Effect::Gap => subscription.proven = None,
            _ => {}
        }
        if whole {
            subscription.incomplete_since = None;
        } else {
            subscription.incomplete_since.get_or_insert(now);
        }
        if effect == Effect::SourceCompleted && whole {
            subscription.broken_since = None;
        }
        effect
    }

    /// A fresh queue is bound; a snapshot is needed.
    pub fn subscribed(&self) {
        self.shared.state.write().subscribed();
        let mut subscription = self.shared.subscription.write();
        subscription.link = Instant::now();
        // What was proven was proven of the former subscription.
        subscription.proven = None;
    }

    /// The connection is gone: the moment at which it was last known to stand counts as the moment it broke.
    pub fn broken(&self) {
        let mut subscription = self.shared.subscription.write();
        if subscription.broken_since.is_none() {
            subscription.broken_since = Some(subscription.link);
        }
    }

    /// All that had come into the own queue by `then` has been taken.
    pub fn up_to_date(&self, then: Instant) {
        let mut subscription = self.shared.subscription.write();
        subscription.link = subscription.link.max(then);
    }

    /// The position at which the digest equalled the database's, if that was no longer ago than three bookmarks.
    #[must_use]
    pub fn proven(&self) -> Option<Position> {
        let at = self.shared.subscription.read().proven?;
        let position = self.shared.state.read().proven()?;
        (at.elapsed() <= PROOF_HOLDS).then_some(position)
    }

    /// How long ago the digest last equalled the database's.
    #[must_use]
    pub fn proven_ago(&self) -> Option<Duration> {
        Some(self.shared.subscription.read().proven?.elapsed())
    }

    /// Gives up a snapshot that stays silent.
    pub fn abandon(&self, snapshot_id: Uuid) {
        self.shared.state.write().abandon(snapshot_id);
    }

    /// See [`CacheState::take_credit`].
    #[must_use]
    pub fn take_credit(&self, id: Uuid, own_queue: &str) -> Option<(String, SnapshotCredit)> {
        self.shared.state.write().take_credit(id, own_queue)
    }

    /// Reads the state.
    pub fn read<T>(&self, read: impl FnOnce(&CacheState) -> T) -> T {
        read(&self.shared.state.read())
    }

    /// Time since the stream was last heard.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.shared.subscription.read().heard.elapsed()
    }

    /// See [`Self::up_to_date`].
    #[must_use]
    pub fn up_to_date_at(&self) -> Instant {
        self.shared.subscription.read().link
    }

    /// The limits it was made with.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.shared.limits
    }

    /// Everything up to here is applied.
    #[must_use]
    pub fn applied(&self) -> Option<Position> {
        self.shared.state.read().applied()
    }
}

fn not_serving(reason: &str) -> NotServing {
    NotServing {
        reason: reason.to_owned(),
    }
}
