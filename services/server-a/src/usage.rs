//! `sms_usage_exchange` → own queue → what each user has used of today's quota.
//!
//! Server B alone is exact: it charges an SMS when it stores it, and broadcasts what a user has used. A replica adds what it
//! has accepted since it was last told of that user, and refuses early what would go beyond the quota. So it lets in at most
//! what `replicas × what each accepts between two broadcasts about a user` comes to; server B rejects that part.
//! It never refuses for longer than one broadcast what server B would admit: a broadcast replaces the replica's own count.

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
/// Server B tells of a user within a second of storing an SMS. If it has spoken so long after an SMS was accepted here, and
/// never of its user, that broadcast was lost, or the SMS will never be stored: it must not count for the rest of the day.
const UNANSWERED: Duration = Duration::from_mins(1);

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
}

#[derive(Debug, Clone, Copy)]
struct Used {
    /// Segments that server B has charged.
    reported: u32,
    /// Segments accepted here since then.
    pending: u32,
    /// Since when there have been pending ones.
    since: Instant,
    /// Which broadcast `pending` is counted from.
    broadcasts: u32,
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
    broadcasts: u32,
    kept: bool,
}

impl Default for Usage {
    fn default() -> Self {
        Self {
            today: Arc::new(Mutex::new(Today {
                date: OffsetDateTime::now_utc().date(),
                users: HashMap::new(),
                heard: None,
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
        let heard = today.heard;
        let used = today.users.entry(user_id).or_insert_with(Used::nothing);
        used.forget_unanswered(heard);
        let before = state(daily_quota, used.total(), now);
        if segments > before.left {
            return Err(before);
        }
        if used.pending == 0 {
            used.since = Instant::now();
        }
        used.pending = used.pending.saturating_add(segments);
        let charge = Charge {
            today: Arc::clone(&self.today),
            date: now.date(),
            user_id,
            segments,
            broadcasts: used.broadcasts,
            kept: false,
        };
        Ok((charge, state(daily_quota, used.total(), now)))
    }

    /// What a user has left, without counting anything.
    #[must_use]
    pub fn left(&self, user_id: UserId, daily_quota: i32, now: OffsetDateTime) -> QuotaState {
        let mut today = self.today.lock();
        today.turn_to(now.date());
        let used = today.users.get(&user_id).map_or(0, Used::total);
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
            let used = today
                .users
                .entry(entry.user_id)
                .or_insert_with(Used::nothing);
            // Absolute, but two server Bs may overtake one another.
            used.reported = used.reported.max(entry.segments);
            used.restart();
        }
        true
    }

    /// A fresh queue is bound: what was said before is not known, so nothing that it may have answered counts any more.
    fn subscribed(&self) {
        let mut today = self.today.lock();
        today.users.values_mut().for_each(Used::restart);
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
        }
    }
}

impl Used {
    fn nothing() -> Self {
        Self {
            reported: 0,
            pending: 0,
            since: Instant::now(),
            broadcasts: 0,
        }
    }

    fn total(&self) -> u32 {
        self.reported.saturating_add(self.pending)
    }

    fn restart(&mut self) {
        self.pending = 0;
        self.broadcasts = self.broadcasts.wrapping_add(1);
    }

    fn forget_unanswered(&mut self, heard: Option<Instant>) {
        let waited = heard.map(|heard| heard.saturating_duration_since(self.since));
        if self.pending > 0 && waited.is_some_and(|waited| waited > UNANSWERED) {
            self.restart();
        }
    }
}

impl Charge {
    /// The SMS is queued: it stays counted.
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
        // After a broadcast it is not among the pending ones any more.
        if let Some(used) = today.users.get_mut(&self.user_id)
            && used.broadcasts == self.broadcasts
        {
            used.pending = used.pending.saturating_sub(self.segments);
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
