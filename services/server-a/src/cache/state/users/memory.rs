//! What the cache weighs: an estimate, for a metric.

use wire_contract::{ShortDigest, UserId};

use super::{KeySlot, PreviousKeys, Record, Users};

/// Users whose name and previous keys are weighed; the others are taken to be like them.
const SAMPLE: usize = 1_000;
/// Counts of an `Arc`, in front of what it holds.
const ARC_COUNTS: usize = 2 * size_of::<usize>();

impl Users {
    /// Bytes: tables by their capacity, long names and previous keys by a sample.
    pub fn memory_bytes(&self) -> usize {
        let tables = self.records.memory_bytes()
            + self.by_id.allocation_size()
            + self.by_key.allocation_size()
            + table_bytes::<(ShortDigest, KeySlot)>(self.other_keys.capacity())
            + table_bytes::<(UserId, PreviousKeys)>(self.previous.capacity());
        let names = self.records.iter().map(name_bytes);
        let previous = self.previous.values().map(|keys| size_of_val(&**keys));
        tables + by_sample(self.by_id.len(), names) + by_sample(self.previous.len(), previous)
    }
}

/// The sum of `count` weights, if the others are like the first.
fn by_sample(count: usize, weights: impl Iterator<Item = usize>) -> usize {
    let sample: usize = weights.take(SAMPLE).sum();
    (sample * count).checked_div(count.min(SAMPLE)).unwrap_or(0)
}

/// A hash table of std: buckets are a power of two, at most 7 of 8 are used, and each has a byte beside it.
fn table_bytes<T>(capacity: usize) -> usize {
    if capacity == 0 {
        return 0;
    }
    let buckets = (capacity * 8).div_ceil(7).next_power_of_two();
    buckets * (size_of::<T>() + 1)
}

/// What a record keeps outside of its place.
fn name_bytes(record: &Record) -> usize {
    let user = record.entry.user.as_ref();
    user.and_then(|user| user.username.heap_len())
        .map_or(0, |len| (ARC_COUNTS + len).next_multiple_of(ARC_COUNTS))
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
        let entry = size_of::<Record>() + 2 * size_of::<u32>();
        // More than the sample.
        let (short, long) = (cache_of(3_000, "u"), cache_of(3_000, &"u".repeat(101)));
        assert!(short.memory_bytes() > 3_000 * entry);
        let names = long.memory_bytes() - short.memory_bytes();
        // Short names lie in their entries; of a long one the counts and the text, as the allocator rounds them.
        assert_eq!(names, 3_000 * 128);
    }
}
