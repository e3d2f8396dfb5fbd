//! What the cache weighs: an estimate, for a metric.

use wire_contract::{ShortDigest, UserId};

use super::{Entry, KeySlot, Users};

/// Users whose name and keys are weighed; the others are taken to be like them.
const SAMPLE: usize = 1_000;
/// Counts of an `Arc`, in front of what it holds.
const ARC_COUNTS: usize = 2 * size_of::<usize>();

impl Users {
    /// Bytes: tables by their capacity, names and keys by a sample.
    pub fn memory_bytes(&self) -> usize {
        let tables = table_bytes::<(UserId, Entry)>(self.entries.capacity())
            + table_bytes::<(ShortDigest, KeySlot)>(self.keys.capacity());
        let sampled = self.entries.len().min(SAMPLE);
        let sample: usize = self.entries.values().take(SAMPLE).map(owned_bytes).sum();
        tables
            + (sample * self.entries.len())
                .checked_div(sampled)
                .unwrap_or(0)
    }
}

/// A hash table of std: buckets are a power of two, at most 7 of 8 are used, and each has a byte beside it.
fn table_bytes<T>(capacity: usize) -> usize {
    if capacity == 0 {
        return 0;
    }
    let buckets = (capacity * 8).div_ceil(7).next_power_of_two();
    buckets * (size_of::<T>() + 1)
}

/// What an entry keeps outside of the table.
fn owned_bytes(entry: &Entry) -> usize {
    entry.user.as_ref().map_or(0, |user| {
        let name = ARC_COUNTS + user.username.len();
        name.next_multiple_of(ARC_COUNTS) + size_of_val(&*user.keys)
    })
}

#[cfg(test)]
mod tests {
    use wire_contract::{ApiKey, ConfigEvent, UserRecord, UserUpdated};

    use super::*;
    use crate::cache::CacheState;

    fn cache_of(users: i64, name: &str) -> CacheState {
        let mut state = CacheState::new();
        for user_id in 1..=users {
            state.apply(ConfigEvent::UserUpdated(UserUpdated {
                user: UserRecord {
                    user_id,
                    api_key: Some(ApiKey::Plain(format!("key-{user_id}"))),
                    username: name.to_owned(),
                    is_active: true,
                    daily_quota: 1,
                    previous_keys: vec![],
                    version: user_id,
                },
                epoch: 1,
                sequence: Some(user_id),
                sync_id: None,
                as_of: None,
                occurred_at: time::OffsetDateTime::UNIX_EPOCH,
            }));
        }
        state
    }

    #[test]
    fn an_empty_cache_weighs_nothing_and_users_weigh_at_least_their_entries_and_names() {
        assert_eq!(CacheState::new().memory_bytes(), 0);
        let entry = size_of::<(UserId, Entry)>() + size_of::<(ShortDigest, KeySlot)>();
        // More than the sample.
        let (short, long) = (cache_of(3_000, "u"), cache_of(3_000, &"u".repeat(101)));
        assert!(short.memory_bytes() > 3_000 * entry);
        let names = long.memory_bytes() - short.memory_bytes();
        assert!((3_000 * 90..3_000 * 120).contains(&names), "{names}");
    }
}
