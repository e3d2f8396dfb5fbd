//! `sms_usage_exchange` → own queue → what each user has used of today's quota.
//!
//! Server B alone is exact: it charges an SMS when it stores it, and broadcasts what a user has used, and up to which time of
//! submission that is so. A replica adds what it has accepted later than that, and refuses early what would go beyond the
//! quota. So under a backlog, too, a user is let in only by what replicas do not know of one another: at most the whole quota
//! a replica, and `replicas × what each accepts between two broadcasts about the user` where server B keeps up; server B
//! rejects that part. It is more after a reconnect of the replica, which begins its own count anew; where clocks of replicas
//! differ; and with a server B that does not tell the time, whose broadcast ends the count of all that was accepted before.
//! It never refuses for longer than it takes server B to store what it waits for, or [`UNANSWERED`] where that never comes.

pub mod metrics;
mod subscription;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use serde_json::{Value, json};
use service_runtime::amqp::ConnectionState;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{Date, OffsetDateTime, Time};
use tokio::time::Instant;
use wire_contract::{SmsUsage, UserId};

pub use subscription::UsageSubscription;

/// How the wire writes a day.
const DAY: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]");
/// Server B stores SMS nearly in the order of their submission. If it has stored anybody's SMS that was submitted so long
/// after one that was accepted here, and never told of that one, the broadcast was lost, or the SMS will never be stored: it
/// must not count for the rest of the day.
const UNANSWERED: Duration = Duration::from_mins(1);
/// SMS that a user submits so close to one another are counted as one, which is stored when the last is.
const TOGETHER: Duration = Duration::from_millis(100);
/// Counts of a user at most: while there are so many, further SMS are added to the last.
const MAX_PENDING: usize = 64;

/// What users have used today. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Usage {
    today: Arc<Mutex<Today>>,
    connection: Arc<RwLock<ConnectionState>>,
}

/// Memory is bounded by the users that send on one day: what belongs to another day is dropped.
#[derive(Debug)]
struct Today {
    date: Date,
    users: HashMap<UserId, Used>,
    /// When server B was last heard.
    heard: Option<Instant>,
    /// The newest submission that server B has told to be stored, whoever's.
    stored_until: Option<OffsetDateTime>,
}

#[derive(Debug, Default)]
struct Used {
    /// Segments that server B has charged.
    reported: u32,
    /// Accepted here, and not known to be stored; the oldest first.
    pending: Vec<Pending>,
    /// How many there have been: names the next one.
    counts: u64,
}

/// SMS accepted here in a short time.
#[derive(Debug)]
struct Pending {
    id: u64,
    oldest: OffsetDateTime,
    newest: OffsetDateTime,
    segments: u32,
}

/// What is left of a quota, for the headers and the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaState {
    /// Segments a UTC day.
    pub quota: u32,
    /// Segments left of it, as far as this replica knows.
    pub left: u32,
    /// Seconds until the next day begins, at least 1.
    pub resets_in: u32,
}

/// The segments of an SMS that is about to be queued, counted; given back when dropped, unless [kept](Self::keep).
#[derive(Debug)]
pub struct Charge {
    today: Arc<Mutex<Today>>,
    date: Date,
    user_id: UserId,
    segments: u32,
    pending: u64,
    kept: bool,
}

impl Default for Usage {
    fn default() -> Self {
        Self {
            today: Arc::new(Mutex::new(Today {
                date: OffsetDateTime::now_utc().date(),
                users: HashMap::new(),
                heard: None,
                stored_until: None,
            })),
            connection: ConnectionState::shared(),
        }
    }
}

impl Usage {
    /// Counts segments that are about to be queued.
    ///
    /// # Errors
    /// What is left, when that is less.
    pub fn charge(
        &self,
        user_id: UserId,
        daily_quota: i32,
        segments: u16,
        now: OffsetDateTime,
    ) -> Result<(Charge, QuotaState), QuotaState> {
        let segments = u32::from(segments);
        let mut today = self.today.lock();
        today.turn_to(now.date());
        let stored_until = today.stored_until;
        let used = today.users.entry(user_id).or_default();
        used.forget_unanswered(stored_until);
        let before = state(daily_quota, used.total(), now);
        if segments > before.left {
            return Err(before);
        }
        let charge = Charge {
            today: Arc::clone(&self.today),
            date: now.date(),
            user_id,
            segments,
            pending: used.count(segments, now),
            kept: false,
        };
        Ok((charge, state(daily_quota, used.total(), now)))
    }

    /// What a user has left, without counting anything.
    #[must_use]
    pub fn left(&self, user_id: UserId, daily_quota: i32, now: OffsetDateTime) -> QuotaState {
        let mut today = self.today.lock();
        today.turn_to(now.date());
        let stored_until = today.stored_until;
        let used = today.users.get_mut(&user_id).map_or(0, |used| {
            used.forget_unanswered(stored_until);
            used.total()
        });
        state(daily_quota, used, now)
    }

    /// Takes a broadcast in; says whether it was of today.
    fn take(&self, usage: &SmsUsage, now: OffsetDateTime) -> bool {
        let mut today = self.today.lock();
        today.turn_to(now.date());
        if Date::parse(&usage.day, DAY) != Ok(today.date) {
            return false;
        }
        today.heard = Some(Instant::now());
        for entry in &usage.users {
            today.stored_until = entry.stored_until.max(today.stored_until);
            let used = today.users.entry(entry.user_id).or_default();
            // Absolute, but two server Bs may overtake one another.
            used.reported = used.reported.max(entry.segments);
            let until = entry.stored_until;
            used.retain_pending(|it| until.is_some_and(|until| it.newest > until));
        }
        true
    }

    /// A fresh queue is bound: what was said before is not known, so nothing that it may have answered counts any more.
    fn subscribed(&self) {
        let mut today = self.today.lock();
        today
            .users
            .values_mut()
            .for_each(|used| used.retain_pending(|_| false));
    }

    /// For `/status`.
    #[must_use]
    pub fn status(&self) -> Value {
        let today = self.today.lock();
        json!({
            "connection": *self.connection.read(),
            "users": today.users.len(),
            "age_seconds": today.heard.map(|heard| heard.elapsed().as_secs_f64()),
        })
    }

    /// Time since server B was last heard, and the users that are known.
    fn age_and_users(&self) -> (Option<Duration>, usize) {
        let today = self.today.lock();
        (today.heard.map(|heard| heard.elapsed()), today.users.len())
    }
}

impl Today {
    fn turn_to(&mut self, date: Date) {
        if self.date != date {
            self.date = date;
            self.users = HashMap::new();
            self.stored_until = None;
        }
    }
}

impl Used {
    fn total(&self) -> u32 {
        let pending = self.pending.iter().map(|it| it.segments);
        pending.fold(self.reported, u32::saturating_add)
    }

    /// Counts what was accepted now; gives the name of the count.
    fn count(&mut self, segments: u32, now: OffsetDateTime) -> u64 {
        let full = self.pending.len() >= MAX_PENDING;
        match self.pending.last_mut() {
            Some(last) if full || now - last.oldest < TOGETHER => {
                last.newest = last.newest.max(now);
                last.segments = last.segments.saturating_add(segments);
            }
            _ => {
                self.counts += 1;
                self.pending.push(Pending {
                    id: self.counts,
                    oldest: now,
                    newest: now,
                    segments,
                });
            }
        }
        self.pending.last().map_or(self.counts, |last| last.id)
    }

    fn forget_unanswered(&mut self, stored_until: Option<OffsetDateTime>) {
        if let Some(until) = stored_until {
            self.retain_pending(|it| until - it.newest <= UNANSWERED);
        }
    }

    fn retain_pending(&mut self, still_counts: impl Fn(&Pending) -> bool) {
        self.pending.retain(still_counts);
        if self.pending.is_empty() {
            // Its memory, too: of most users nothing is pending most of the day, and there may be a million.
            self.pending = Vec::new();
        }
    }
}

impl Charge {
    /// The SMS is queued, or may be: it stays counted.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let mut today = self.today.lock();
        if today.date != self.date {
            return;
        }
        // After a broadcast it may not be among the pending ones any more.
        let used = today.users.get_mut(&self.user_id);
        let mut pending = used.into_iter().flat_map(|used| &mut used.pending);
        if let Some(pending) = pending.find(|it| it.id == self.pending) {
            pending.segments = pending.segments.saturating_sub(self.segments);
        }
    }
}

fn state(daily_quota: i32, used: u32, now: OffsetDateTime) -> QuotaState {
    let quota = u32::try_from(daily_quota).unwrap_or(0);
    let since_midnight = now.time() - Time::MIDNIGHT;
    let resets_in = 86_400 - since_midnight.whole_seconds();
    QuotaState {
        quota,
        left: quota.saturating_sub(used),
        resets_in: u32::try_from(resets_in).unwrap_or(1).max(1),
    }
}

#[cfg(test)]
#[path = "usage_tests.rs"]
mod tests;
