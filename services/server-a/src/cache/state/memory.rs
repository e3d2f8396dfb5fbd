//! What the cache weighs: an estimate, for a metric.

use wire_contract::{ShortDigest, UserId};

use super::{CacheState, Entry, KeySlot};

/// Users whose name and keys are weighed; the others are taken to be like them.
const SAMPLE: usize = 1_000;
/// Counts of an `Arc`, in front of what it holds.
const ARC_COUNTS: usize = 2 * size_of::<usize>();

impl CacheState {
    /// Bytes: tables by their capacity, names and keys by a sample.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let tables = table_bytes::<(UserId, Entry)>(self.users.capacity())
            + table_bytes::<(ShortDigest, KeySlot)>(self.keys.capacity());
        let sampled = self.users.len().min(SAMPLE);
        let sample: usize = self.users.values().take(SAMPLE).map(owned_bytes).sum();
        tables
            + (sample * self.users.len())
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
