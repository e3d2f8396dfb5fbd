//! Users and the index of their keys, with count and digest of exactly what look-ups find.

mod memory;

use std::collections::HashMap;
use std::sync::Arc;

use wire_contract::{ShortDigest, UserId, UserRecord, UserSetDigest, key_hash, user_hash};

use super::rule::{Rule, Rules};
use crate::cache::ClientConfig;

/// Orders changes of one user.
pub(super) type Rank = (i64, i64);

/// A user as the cache keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    pub username: Arc<str>,
    pub is_active: bool,
    pub daily_quota: i32,
    /// Current key, if any, and previous ones with their expiry in microseconds since the epoch.
    pub keys: Box<[(ShortDigest, Option<i64>)]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub rank: Rank,
    /// Sequence (of the rank's epoch) up to which this is known to be the user's state.
    pub as_of: i64,
    /// Reading of the state's own clock when the entry was last written or confirmed.
    pub touched: u64,
    /// `None` is a tombstone.
    pub user: Option<User>,
}

impl Entry {
    /// The entry was told of again, and what it holds is at least as new.
    pub fn confirm(&mut self, epoch: i64, as_of: i64, clock: u64) {
        if epoch == self.rank.0 {
            self.as_of = self.as_of.max(as_of);
        }
        self.touched = clock;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct KeySlot {
    user_id: UserId,
    expires_at: Option<i64>,
}

/// Entries by user, tombstones among them, and by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Users {
    entries: HashMap<UserId, Entry>,
    keys: HashMap<ShortDigest, KeySlot>,
    digest: UserSetDigest,
    live: u64,
    tombstones: u64,
    pub rules: Rules,
}

impl Users {
    pub fn get_mut(&mut self, id: UserId) -> Option<&mut Entry> {
        self.entries.get_mut(&id)
    }

    /// Users, without tombstones.
    pub fn len(&self) -> u64 {
        self.live
    }

    pub fn digest(&self) -> UserSetDigest {
        self.digest
    }

    /// The user that a key belongs to, unless the key has expired.
    pub fn look_up(&self, key: &ShortDigest, now_micros: i64) -> Option<ClientConfig> {
        let slot = self.keys.get(key)?;
        if slot.expires_at.is_some_and(|at| at <= now_micros) {
            return None;
        }
        let user = self.entries.get(&slot.user_id)?.user.as_ref()?;
        Some(ClientConfig {
            user_id: slot.user_id,
            username: Arc::clone(&user.username),
            is_active: user.is_active,
            daily_quota: user.daily_quota,
        })
    }

    /// Writes an entry with its keys and keeps the digest true to what the look-up structures hold.
    /// `source_started` is set for a row of a source; a tombstone is kept only where asked for.
    pub fn put(
        &mut self,
        id: UserId,
        entry: Entry,
        source_started: Option<u64>,
        with_tombstones: bool,
    ) {
        if let Some(old) = self.entries.remove(&id) {
            self.unlink(id, &old);
        }
        if let Some(user) = &entry.user {
            for (key, expires_at) in &user.keys {
                self.claim(*key, id, entry.rank, *expires_at, source_started);
            }
            self.digest += hash_of(id, entry.rank, user);
            self.live += 1;
        } else if with_tombstones && self.rules.has(Rule::Tombstones) {
            self.tombstones += 1;
        } else {
            return;
        }
        self.entries.insert(id, entry);
    }

    /// Removes those whom `gone` names, as of the position's number.
    pub fn sweep(
        &mut self,
        gone: impl Fn(&Entry) -> bool,
        as_of: i64,
        clock: u64,
        with_tombstones: bool,
    ) {
        let gone: Vec<(UserId, Rank)> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.user.is_some() && gone(entry))
            .map(|(id, entry)| (*id, entry.rank))
            .collect();
        for (id, rank) in gone {
            let tombstone = Entry {
                rank,
                as_of,
                touched: clock,
                user: None,
            };
            self.put(id, tombstone, None, with_tombstones);
        }
    }

    pub fn purge_tombstones(&mut self) {
        if self.tombstones > 0 {
            self.entries.retain(|_, entry| entry.user.is_some());
            self.tombstones = 0;
        }
    }

    fn unlink(&mut self, id: UserId, old: &Entry) {
        let Some(user) = &old.user else {
            self.tombstones -= 1;
            return;
        };
        self.digest -= hash_of(id, old.rank, user);
        self.live -= 1;
        for (key, _) in &user.keys {
            if self.keys.get(key).is_some_and(|slot| slot.user_id == id)
                && self.rules.has(Rule::KeysAreReleased)
            {
                self.release(*key);
            }
        }
    }

    /// A key that another user holds goes to the newer claim: by version, or to a source's row when
    /// nothing touched the holder since that source started.
    pub(super) fn claim(
        &mut self,
        key: ShortDigest,
        id: UserId,
        rank: Rank,
        expires_at: Option<i64>,
        source_started: Option<u64>,
    ) {
        if let Some(slot) = self.keys.get(&key) {
            let newer_holder = self.entries.get(&slot.user_id).is_some_and(|holder| {
                self.rules.order(holder.rank) > self.rules.order(rank)
                    && source_started.is_none_or(|started| holder.touched > started)
            });
            if newer_holder && self.rules.has(Rule::KeysFollowVersions) {
                return;
            }
            self.release(key);
        }
        self.digest += key_hash(id, &key, expires_at);
        self.keys.insert(
            key,
            KeySlot {
                user_id: id,
                expires_at,
            },
        );
    }

    fn release(&mut self, key: ShortDigest) {
        if let Some(slot) = self.keys.remove(&key) {
            self.digest -= key_hash(slot.user_id, &key, slot.expires_at);
        }
    }
}

pub(super) fn user_of(record: &UserRecord) -> User {
    let current = record
        .api_key
        .iter()
        .map(|key| (key.digest().short(), None));
    let previous = record
        .previous_keys
        .iter()
        .map(|key| (key.digest.short(), Some(key.expires_at_micros())));
    User {
        username: record.username.as_str().into(),
        is_active: record.is_active,
        daily_quota: record.daily_quota,
        keys: current.chain(previous).collect(),
    }
}

fn hash_of(id: UserId, rank: Rank, user: &User) -> UserSetDigest {
    user_hash(id, rank.1, &user.username, user.is_active, user.daily_quota)
}
