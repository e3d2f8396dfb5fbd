//! Users and the index of their keys, with count and digest of exactly what look-ups find.
//!
//! Entries lie in a [`Slab`]; two tables of place numbers find them, by user and by current key. They take five bytes a
//! place, so it costs little that a half of them may be empty. What few users have, previous keys, is kept apart.

mod memory;
mod slab;

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};

use hashbrown::HashTable;
use wire_contract::{ShortDigest, UserId, UserRecord, UserSetDigest, key_hash, user_hash};

use self::slab::Slab;
use super::rule::{Rule, Rules};
use crate::cache::{ClientConfig, Username};

/// Orders changes of one user.
pub(super) type Rank = (i64, i64);

/// Keys that still hold beside the current one, with their expiry in microseconds since the epoch.
pub(super) type PreviousKeys = Box<[(ShortDigest, i64)]>;

/// A user as the cache keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    pub username: Username,
    pub is_active: bool,
    pub daily_quota: i32,
    /// Current key, if any. Another user may hold it by now: see [`Users::claim`].
    pub key: Option<ShortDigest>,
}

/// What server B tells of a user, and what that adds to the digest: hashed once, to be counted and to be kept.
pub(super) struct Told {
    pub user: User,
    pub previous: PreviousKeys,
    pub hashes: Hashes,
}

/// What a user adds to the digest, but for previous keys.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hashes {
    user: UserSetDigest,
    key: Option<UserSetDigest>,
}

impl Told {
    pub fn of(record: &UserRecord) -> Self {
        let user = User {
            username: record.username.as_str().into(),
            is_active: record.is_active,
            daily_quota: record.daily_quota,
            key: record.api_key.as_ref().map(|key| key.digest().short()),
        };
        let previous = record.previous_keys.iter();
        let previous = previous.map(|key| (key.digest.short(), key.expires_at_micros()));
        Self {
            hashes: Hashes::of(record.user_id, record.version, &user),
            user,
            previous: previous.collect(),
        }
    }

    /// All that it adds.
    pub fn digest(&self, id: UserId) -> UserSetDigest {
        let mut sum = self.hashes.user;
        if let Some(key) = self.hashes.key {
            sum += key;
        }
        for (key, expires_at) in &self.previous {
            sum += key_hash(id, key, Some(*expires_at));
        }
        sum
    }
}

impl Hashes {
    fn of(id: UserId, version: i64, user: &User) -> Self {
        Self {
            user: own_hash(id, version, user),
            key: user.key.map(|key| key_hash(id, &key, None)),
        }
    }
}

#[derive(Debug, Clone)]
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

#[derive(Debug, Clone)]
struct Record {
    user_id: UserId,
    entry: Entry,
}

/// Who holds a key.
#[derive(Debug, Clone, Copy)]
struct KeySlot {
    user_id: UserId,
    expires_at: Option<i64>,
}

/// Entries by user, tombstones among them, and by key.
#[derive(Clone, Default)]
pub(super) struct Users {
    records: Slab<Record>,
    by_id: HashTable<u32>,
    /// By the current key of the record, if its user holds that. No key is in here and in `other_keys`.
    by_key: HashTable<u32>,
    /// Keys that are not the current one of their holder: mostly previous ones.
    other_keys: HashMap<ShortDigest, KeySlot>,
    /// The previous keys that users name, whoever holds them; only of users that have some.
    previous: HashMap<UserId, PreviousKeys>,
    /// Keys the hashes of user ids.
    hasher: RandomState,
    digest: UserSetDigest,
    live: u64,
    tombstones: u64,
    pub rules: Rules,
}

impl Users {
    pub fn get_mut(&mut self, id: UserId) -> Option<&mut Entry> {
        let place = self.place_of(id)?;
        Some(&mut self.records.get_mut(place)?.entry)
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
        let place = if let Some(place) = self.place_by_key(key) {
            place
        } else {
            let slot = self.other_keys.get(key)?;
            if slot.expires_at.is_some_and(|at| at <= now_micros) {
                return None;
            }
            self.place_of(slot.user_id)?
        };
        let record = self.records.get(place)?;
        let user = record.entry.user.as_ref()?;
        Some(ClientConfig {
            user_id: record.user_id,
            username: user.username.clone(),
            is_active: user.is_active,
            daily_quota: user.daily_quota,
        })
    }

    /// Writes an entry with its keys and keeps the digest true to what the look-up structures hold.
    /// `hashes` are the user's where they are known; `source_started` is set for a row of a source; a tombstone is kept only
    /// where asked for.
    pub fn put(
        &mut self,
        id: UserId,
        entry: Entry,
        previous: PreviousKeys,
        hashes: Option<Hashes>,
        source_started: Option<u64>,
        with_tombstones: bool,
    ) {
        let place = self.place_of(id);
        if let Some(place) = place {
            if previous.is_empty() && self.holds(place, &entry) {
                if let Some(record) = self.records.get_mut(place) {
                    record.entry = entry;
                }
                return;
            }
            self.unlink(place);
        }
        let rank = entry.rank;
        let key = entry.user.as_ref().and_then(|user| user.key);
        let mut key_hash_of = None;
        if let Some(user) = &entry.user {
            let hashes = hashes.unwrap_or_else(|| Hashes::of(id, rank.1, user));
            self.digest += hashes.user;
            key_hash_of = hashes.key;
            self.live += 1;
        } else if with_tombstones && self.rules.has(Rule::Tombstones) {
            self.tombstones += 1;
        } else {
            if let Some(place) = place {
                self.remove(place);
            }
            return;
        }
        if let Some(record) = place.and_then(|place| self.records.get_mut(place)) {
            record.entry = entry;
        } else {
            self.insert(Record { user_id: id, entry });
        }
        if let Some((key, hash)) = key.zip(key_hash_of) {
            self.claim(key, hash, id, rank, None, source_started);
        }
        for (key, expires_at) in &previous {
            let hash = key_hash(id, key, Some(*expires_at));
            self.claim(*key, hash, id, rank, Some(*expires_at), source_started);
        }
        if !previous.is_empty() {
            self.previous.insert(id, previous);
        }
    }

    /// Whether a record says the same as `entry`, but for when it was told, and has its key: as most do that a replica is told
    /// of once more, after a reconnect.
    fn holds(&self, place: u32, entry: &Entry) -> bool {
        let Some((record, user)) = self.records.get(place).zip(entry.user.as_ref()) else {
            return false;
        };
        record.entry.rank == entry.rank
            && record.entry.user.as_ref() == Some(user)
            && !self.previous.contains_key(&record.user_id)
            && user
                .key
                .is_none_or(|key| self.place_by_key(&key) == Some(place))
    }

    /// Makes room for so many users in all: growing by steps costs time and, until they are given back, the tables of before.
    pub fn reserve(&mut self, users: usize) {
        let more = users.saturating_sub(self.by_id.len());
        let (records, hasher) = (&self.records, &self.hasher);
        self.by_id.reserve(more, |place| {
            hasher.hash_one(records.get(*place).map_or(0, |it| it.user_id))
        });
        let more = users.saturating_sub(self.by_key.len());
        self.by_key
            .reserve(more, |place| current_key(records, *place).map_or(0, spread));
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
            .records
            .iter()
            .filter(|record| record.entry.user.is_some() && gone(&record.entry))
            .map(|record| (record.user_id, record.entry.rank))
            .collect();
        for (id, rank) in gone {
            let tombstone = Entry {
                rank,
                as_of,
                touched: clock,
                user: None,
            };
            self.put(
                id,
                tombstone,
                PreviousKeys::default(),
                None,
                None,
                with_tombstones,
            );
        }
    }

    pub fn purge_tombstones(&mut self) {
        if self.tombstones == 0 {
            return;
        }
        let places: Vec<u32> = self
            .records
            .iter()
            .filter(|record| record.entry.user.is_none())
            .filter_map(|record| self.place_of(record.user_id))
            .collect();
        for place in places {
            self.remove(place);
        }
        self.tombstones = 0;
    }

    fn place_of(&self, id: UserId) -> Option<u32> {
        let is_it = |place: &u32| self.records.get(*place).is_some_and(|it| it.user_id == id);
        self.by_id.find(self.hasher.hash_one(id), is_it).copied()
    }

    fn place_by_key(&self, key: &ShortDigest) -> Option<u32> {
        let is_it = |place: &u32| current_key(&self.records, *place) == Some(key);
        self.by_key.find(spread(key), is_it).copied()
    }

    fn insert(&mut self, record: Record) {
        let hash = self.hasher.hash_one(record.user_id);
        let place = self.records.insert(record);
        self.by_id.insert_unique(hash, place, |place| {
            let record = self.records.get(*place);
            self.hasher.hash_one(record.map_or(0, |it| it.user_id))
        });
    }

    /// Takes a record away that no key leads to.
    fn remove(&mut self, place: u32) {
        if let Some(record) = self.records.remove(place)
            && let Ok(found) = self
                .by_id
                .find_entry(self.hasher.hash_one(record.user_id), |it| *it == place)
        {
            found.remove();
        }
    }

    /// Takes what a record holds out of the indexes of keys, the digest and the counts.
    fn unlink(&mut self, place: u32) {
        let Some(record) = self.records.get(place) else {
            return;
        };
        let id = record.user_id;
        let Some(user) = &record.entry.user else {
            self.tombstones -= 1;
            return;
        };
        self.digest -= own_hash(id, record.entry.rank.1, user);
        self.live -= 1;
        let current = user.key;
        let previous = self.previous.remove(&id).unwrap_or_default();
        for key in current.into_iter().chain(previous.iter().map(|it| it.0)) {
            let Some(slot) = self.holder(&key).filter(|slot| slot.user_id == id) else {
                continue;
            };
            self.release(&key, slot);
            if !self.rules.has(Rule::KeysAreReleased) {
                self.hold(key, key_hash(id, &key, slot.expires_at), slot);
            }
        }
    }

    fn holder(&self, key: &ShortDigest) -> Option<KeySlot> {
        if let Some(place) = self.place_by_key(key) {
            return Some(KeySlot {
                user_id: self.records.get(place)?.user_id,
                expires_at: None,
            });
        }
        self.other_keys.get(key).copied()
    }

    /// A key that another user holds goes to the newer claim: by version, or to a source's row when
    /// nothing touched the holder since that source started.
    pub(super) fn claim(
        &mut self,
        key: ShortDigest,
        hash: UserSetDigest,
        id: UserId,
        rank: Rank,
        expires_at: Option<i64>,
        source_started: Option<u64>,
    ) {
        if let Some(slot) = self.holder(&key) {
            let order = self.rules.order(rank);
            let rules = self.rules;
            let newer_holder = self.get_mut(slot.user_id).is_some_and(|holder| {
                rules.order(holder.rank) > order
                    && source_started.is_none_or(|started| holder.touched > started)
            });
            if newer_holder && self.rules.has(Rule::KeysFollowVersions) {
                return;
            }
            self.release(&key, slot);
        }
        let slot = KeySlot {
            user_id: id,
            expires_at,
        };
        let place = self.place_of(id).filter(|place| {
            expires_at.is_none() && current_key(&self.records, *place) == Some(&key)
        });
        match place {
            Some(place) => {
                self.digest += hash;
                self.by_key.insert_unique(spread(&key), place, |place| {
                    current_key(&self.records, *place).map_or(0, spread)
                });
            }
            None => self.hold(key, hash, slot),
        }
    }

    /// Notes the holder of a key that is not its current one.
    fn hold(&mut self, key: ShortDigest, hash: UserSetDigest, slot: KeySlot) {
        self.digest += hash;
        self.other_keys.insert(key, slot);
    }

    /// Takes a key from the one that [`Self::holder`] has named.
    fn release(&mut self, key: &ShortDigest, slot: KeySlot) {
        self.digest -= key_hash(slot.user_id, key, slot.expires_at);
        let is_it = |place: &u32| current_key(&self.records, *place) == Some(key);
        match self.by_key.find_entry(spread(key), is_it) {
            Ok(found) => {
                found.remove();
            }
            Err(_) => {
                self.other_keys.remove(key);
            }
        }
    }
}

/// As maps, without places: states that hold the same look the same.
impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries: HashMap<_, _> = self
            .records
            .iter()
            .map(|record| (record.user_id, &record.entry))
            .collect();
        let mut keys = self.other_keys.clone();
        for record in self
            .by_key
            .iter()
            .filter_map(|place| self.records.get(*place))
        {
            let key = record.entry.user.as_ref().and_then(|user| user.key);
            let slot = KeySlot {
                user_id: record.user_id,
                expires_at: None,
            };
            keys.extend(key.map(|key| (key, slot)));
        }
        f.debug_struct("Users")
            .field("entries", &entries)
            .field("keys", &keys)
            .field("previous", &self.previous)
            .field("digest", &self.digest)
            .field("live", &self.live)
            .field("tombstones", &self.tombstones)
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}

fn own_hash(id: UserId, version: i64, user: &User) -> UserSetDigest {
    user_hash(
        id,
        version,
        &user.username,
        user.is_active,
        user.daily_quota,
    )
}

fn current_key(records: &Slab<Record>, place: u32) -> Option<&ShortDigest> {
    records.get(place)?.entry.user.as_ref()?.key.as_ref()
}

/// A digest is spread evenly as it is: a part of it does for a hash.
fn spread(key: &ShortDigest) -> u64 {
    key.first_chunk()
        .map_or(0, |part| u64::from_le_bytes(*part))
}

#[cfg(test)]
mod tests;
