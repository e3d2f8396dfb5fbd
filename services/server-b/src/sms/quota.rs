//! What becomes of a batch of received SMS: pure, given what the database knows under the lock of the users' usage.

use std::collections::{BTreeSet, HashMap};

use time::{Date, OffsetDateTime, UtcOffset};
use uuid::Uuid;
use wire_contract::UserId;

use super::store::ReceivedSms;

/// A user on a UTC day; in the order in which the rows are locked.
pub type Account = (Date, UserId);

/// What was known of the SMS and users of a batch before it.
#[derive(Debug, Default)]
pub struct Ledger {
    /// SMS that have a row, with what was asked for under their idempotency key.
    pub known: HashMap<Uuid, Option<String>>,
    /// Segments used, and the quota of a user that exists.
    pub accounts: HashMap<Account, (i64, Option<i64>)>,
}

/// A row to insert.
#[derive(Debug)]
pub struct NewRow<'a> {
    pub sms: &'a ReceivedSms,
    /// The quota is used up.
    pub over_quota: bool,
    /// Deliveries of the same batch with its id and another content.
    pub conflicts: i32,
}

/// What to write.
#[derive(Debug, Default)]
pub struct Plan<'a> {
    pub rows: Vec<NewRow<'a>>,
    /// Of SMS that had their row: deliveries with another content.
    pub conflicts: HashMap<Uuid, i32>,
}

impl Plan<'_> {
    /// Deliveries with a known id and another content.
    pub fn conflict_count(&self) -> u64 {
        let within = self.rows.iter().map(|row| row.conflicts);
        let all = within.chain(self.conflicts.values().copied());
        all.map(|count| u64::from(count.unsigned_abs())).sum()
    }
}

/// The day that an SMS counts for.
pub fn day_of(submitted_at: OffsetDateTime) -> Date {
    let utc = submitted_at.checked_to_offset(UtcOffset::UTC);
    utc.unwrap_or(submitted_at).date()
}

/// Which account an SMS is charged to.
pub fn account_of(sms: &ReceivedSms) -> Account {
    (day_of(sms.envelope.submitted_at), sms.envelope.user_id)
}

/// The accounts that a batch names, each once.
pub fn accounts_of(batch: &[&ReceivedSms]) -> BTreeSet<Account> {
    batch.iter().map(|sms| account_of(sms)).collect()
}

/// Decides in the order of arrival. What has a row, or comes twice, is neither stored nor charged again; what would go
/// above the quota is stored as refused, and leaves room for a smaller one behind it. A user that is gone has no quota:
/// its SMS is refused when its turn comes, with that reason.
pub fn plan<'a>(batch: &[&'a ReceivedSms], mut ledger: Ledger) -> Plan<'a> {
    let mut plan = Plan::default();
    let mut rows_of_batch = HashMap::new();
    for sms in batch {
        let (id, hash) = (sms.envelope.message_id, sms.envelope.request_hash.as_ref());
        if let Some(first) = rows_of_batch.get(&id) {
            let row: &mut NewRow<'_> = &mut plan.rows[*first];
            row.conflicts += i32::from(differ(row.sms.envelope.request_hash.as_ref(), hash));
        } else if let Some(first) = ledger.known.get(&id) {
            if differ(first.as_ref(), hash) {
                *plan.conflicts.entry(id).or_default() += 1;
            }
        } else {
            rows_of_batch.insert(id, plan.rows.len());
            let (used, quota) = ledger.accounts.entry(account_of(sms)).or_insert((0, None));
            let after = *used + i64::from(sms.envelope.segments);
            let over_quota = quota.is_some_and(|quota| after > quota);
            if !over_quota {
                *used = after;
            }
            plan.rows.push(NewRow {
                sms,
                over_quota,
                conflicts: 0,
            });
        }
    }
    plan
}

/// Without a hash on both sides there is nothing to compare.
fn differ(first: Option<&String>, later: Option<&String>) -> bool {
    matches!((first, later), (Some(first), Some(later)) if first != later)
}

#[cfg(test)]
#[path = "quota_tests.rs"]
mod tests;
