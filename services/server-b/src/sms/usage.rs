//! Usage of the quota → `sms_usage_exchange`: so that server A refuses early what would be refused here.
//!
//! Only a hint, and absolute: a lost, late or repeated message does no harm.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use service_runtime::amqp::{Message, Publisher};
use sqlx::PgPool;
use time::macros::format_description;
use time::{Date, OffsetDateTime};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wire_contract::{SMS_USAGE_EXCHANGE, SmsUsage, UsageEntry, UserId, encode_json};

use super::metrics;
use super::quota::{Account, account_of};
use super::store::ReceivedSms;

const SMS_USAGE: &str = "sms.usage";
/// Batches of so long are told of together.
const COALESCE: Duration = Duration::from_millis(200);
/// How often all that have used up their quota are told, for replicas that have started since.
const EXHAUSTED_EVERY: Duration = Duration::from_secs(30);
/// Users of one message at most.
const MESSAGE_USERS: usize = 1000;

/// What is yet to be told. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Usage {
    pending: Arc<Mutex<HashMap<Account, Told>>>,
    changed: Arc<Notify>,
}

/// What is told of an account. Both only grow, so of two values the higher is the newer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Told {
    segments: u32,
    stored_until: Option<OffsetDateTime>,
}

impl Usage {
    /// Takes what a committed batch says, and up to where server A need not count itself what was submitted.
    pub fn stored(&self, usage: impl IntoIterator<Item = (Account, u32)>, batch: &[&ReceivedSms]) {
        let mut newest = HashMap::<Account, OffsetDateTime>::new();
        for sms in batch {
            let submitted_at = sms.envelope.submitted_at;
            let known = newest.entry(account_of(sms)).or_insert(submitted_at);
            *known = submitted_at.max(*known);
        }
        self.report(usage.into_iter().map(|(account, segments)| {
            let stored_until = newest.get(&account).copied();
            let told = Told {
                segments,
                stored_until,
            };
            (account, told)
        }));
    }

    fn report(&self, usage: impl IntoIterator<Item = (Account, Told)>) {
        let mut pending = self.pending.lock();
        for (account, told) in usage {
            let known = pending.entry(account).or_default();
            known.segments = told.segments.max(known.segments);
            known.stored_until = told.stored_until.max(known.stored_until);
        }
        drop(pending);
        self.changed.notify_one();
    }

    /// Tells until `shutdown`.
    ///
    /// # Errors
    /// None: what could not be told is told later.
    pub async fn run(
        self,
        pool: PgPool,
        publisher: Publisher,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        let mut exhausted_at = Instant::now();
        let mut turn = Turn::Always;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = self.changed.notified() => tokio::time::sleep(COALESCE).await,
                () = tokio::time::sleep_until(exhausted_at) => {
                    exhausted_at = Instant::now() + EXHAUSTED_EVERY;
                    match exhausted(&pool, std::mem::replace(&mut turn, Turn::IfDue)).await {
                        Ok(users) => self.report(users),
                        Err(error) => {
                            let error = error.to_string();
                            tracing::warn!(error, "cannot read who has used up the quota");
                        }
                    }
                }
            }
            let pending = std::mem::take(&mut *self.pending.lock());
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = self.tell(&publisher, pending) => {}
            }
        }
    }

    async fn tell(&self, publisher: &Publisher, pending: HashMap<Account, Told>) {
        let mut days = BTreeMap::<Date, Vec<UsageEntry>>::new();
        for ((day, user_id), told) in pending {
            days.entry(day).or_default().push(UsageEntry {
                user_id,
                segments: told.segments,
                stored_until: told.stored_until,
            });
        }
        for (day, users) in days {
            for users in users.chunks(MESSAGE_USERS) {
                if let Err(error) = publish(publisher, day, users).await {
                    tracing::debug!(error = format!("{error:#}"), "usage not told, trying again");
                    self.put_back(day, users);
                    // Also keeps a broker that is away from being asked without a pause.
                    tokio::time::sleep(COALESCE).await;
                }
            }
        }
    }

    fn put_back(&self, day: Date, users: &[UsageEntry]) {
        self.report(users.iter().map(|it| {
            let told = Told {
                segments: it.segments,
                stored_until: it.stored_until,
            };
            ((day, it.user_id), told)
        }));
    }
}

async fn publish(publisher: &Publisher, day: Date, users: &[UsageEntry]) -> anyhow::Result<()> {
    let usage = SmsUsage {
        day: day.format(format_description!("[year]-[month]-[day]"))?,
        users: users.to_vec(),
    };
    let message = Message::to_fanout(SMS_USAGE_EXCHANGE, SMS_USAGE, encode_json(&usage));
    publisher.publish(message).await?;
    metrics::USAGE_TOLD.inc_by(users.len() as u64);
    Ok(())
}

/// Whether this server B tells of those who have used up their quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// As it starts: nobody may have done so for long.
    Always,
    /// If no other has done so since [`EXHAUSTED_EVERY`].
    IfDue,
}

/// Who has used up the quota of this UTC day; nobody where it is another's turn.
async fn exhausted(pool: &PgPool, turn: Turn) -> sqlx::Result<Vec<(Account, Told)>> {
    let today = OffsetDateTime::now_utc().date();
    let users: Vec<(UserId, i32)> = sqlx::query_as(
        // A second of grace, or the turn of one that comes a little early would be lost.
        "WITH turn AS (
             UPDATE sms_usage_rounds SET begun_at = now()
             WHERE $2 OR begun_at < now() - make_interval(secs => $3 - 1) RETURNING true
         )
         SELECT user_id, segments FROM sms_usage JOIN users USING (user_id)
         WHERE day = $1 AND segments >= daily_quota AND EXISTS (SELECT FROM turn)",
    )
    .bind(today)
    .bind(turn == Turn::Always)
    .bind(EXHAUSTED_EVERY.as_secs_f64())
    .fetch_all(pool)
    .await?;
    let users = users.into_iter();
    Ok(users
        .map(|(user_id, segments)| {
            let told = Told {
                segments: segments.unsigned_abs(),
                stored_until: None,
            };
            ((today, user_id), told)
        })
        .collect())
}
