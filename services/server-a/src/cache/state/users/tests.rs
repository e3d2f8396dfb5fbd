//! The compact structure against the plain one it stands for.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const USERS: i64 = 6;
const KEYS: u8 = 8;
const CLOCK: u64 = 1;

/// What is put: a user with its keys, or a tombstone that is kept or not.
#[derive(Debug, Clone)]
enum Put {
    User {
        id: UserId,
        version: i64,
        key: Option<u8>,
        previous: Vec<(u8, i64)>,
    },
    Gone {
        id: UserId,
        with_tombstones: bool,
    },
    Purge,
}

fn puts() -> impl Strategy<Value = Vec<Put>> {
    let user = (
        0..USERS,
        0..20_i64,
        prop::option::of(0..KEYS),
        prop::collection::vec((0..KEYS, 0..3_i64), 0..3),
    );
    prop::collection::vec(
        prop_oneof![
            6 => user.prop_map(|(id, version, key, previous)| Put::User { id, version, key, previous }),
            2 => (0..USERS, any::<bool>()).prop_map(|(id, with_tombstones)| Put::Gone { id, with_tombstones }),
            1 => Just(Put::Purge),
        ],
        1..60,
    )
}

fn digest_of_key(key: u8) -> ShortDigest {
    // Alike in the part that is hashed, so that places collide.
    let mut digest = [key % 2; 16];
    digest[15] = key;
    digest
}

/// Keys with their expiry.
type Keys = Vec<(u8, Option<i64>)>;

/// All that is known, in ordered maps: versions, the keys that users name, and who holds each.
#[derive(Default)]
struct Naive {
    users: BTreeMap<UserId, (i64, Keys)>,
    holders: BTreeMap<u8, (UserId, Option<i64>)>,
}

impl Naive {
    fn remove(&mut self, id: UserId) {
        self.users.remove(&id);
        self.holders.retain(|_, holder| holder.0 != id);
    }

    fn put(&mut self, id: UserId, version: i64, keys: Vec<(u8, Option<i64>)>) {
        self.remove(id);
        for (key, expires_at) in &keys {
            let holder = self.holders.get(key).and_then(|it| self.users.get(&it.0));
            if holder.is_none_or(|(held, _)| *held <= version) {
                self.holders.insert(*key, (id, *expires_at));
            }
        }
        self.users.insert(id, (version, keys));
    }

    fn digest(&self) -> UserSetDigest {
        let mut digest = UserSetDigest::default();
        for (id, (version, _)) in &self.users {
            digest += user_hash(*id, *version, &name(*id), true, 7);
        }
        for (key, (id, expires_at)) in &self.holders {
            digest += key_hash(*id, &digest_of_key(*key), *expires_at);
        }
        digest
    }
}

fn name(id: UserId) -> String {
    "n".repeat(usize::try_from(id).unwrap_or(0) * 10)
}

fn entry(version: i64, user: Option<User>) -> Entry {
    Entry {
        rank: (1, version),
        as_of: 0,
        touched: CLOCK,
        user,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn users_and_keys_are_found_as_in_plain_maps(puts in puts()) {
        let (mut users, mut naive) = (Users::default(), Naive::default());
        for put in puts {
            match put {
                Put::User { id, version, key, previous } => {
                    let user = User {
                        username: name(id).as_str().into(),
                        is_active: true,
                        daily_quota: 7,
                        key: key.map(digest_of_key),
                    };
                    let listed = previous.iter().map(|(key, at)| (digest_of_key(*key), *at)).collect();
                    users.put(id, entry(version, Some(user)), listed, None, None, true);
                    let current = key.map(|key| (key, None));
                    let previous = previous.into_iter().map(|(key, at)| (key, Some(at)));
                    naive.put(id, version, current.into_iter().chain(previous).collect());
                }
                Put::Gone { id, with_tombstones } => {
                    users.put(id, entry(0, None), PreviousKeys::default(), None, None, with_tombstones);
                    naive.remove(id);
                    let entry = users.get_mut(id).map(|entry| entry.user.is_none());
                    prop_assert_eq!(entry, with_tombstones.then_some(true));
                }
                Put::Purge => {
                    users.purge_tombstones();
                    prop_assert_eq!(users.by_id.len() as u64, users.len());
                }
            }
            prop_assert_eq!(users.len(), naive.users.len() as u64);
            prop_assert_eq!(users.digest(), naive.digest());
            prop_assert_eq!(users.by_key.len() + users.other_keys.len(), naive.holders.len());
            for (key, now) in (0..KEYS).flat_map(|key| (0..3).map(move |now| (key, now))) {
                let found = users.look_up(&digest_of_key(key), now);
                let holder = naive.holders.get(&key);
                let expected = holder.filter(|(_, at)| at.is_none_or(|at| at > now));
                prop_assert_eq!(found.as_ref().map(|it| it.user_id), expected.map(|it| it.0));
                if let Some(found) = found {
                    prop_assert_eq!(found.username.as_str(), name(found.user_id));
                }
            }
        }
        users.sweep(|_| true, 0, CLOCK, false);
        users.purge_tombstones();
        prop_assert_eq!((users.len(), users.digest()), (0, UserSetDigest::default()));
        prop_assert_eq!((users.records.iter().count(), users.by_id.len(), users.by_key.len()), (0, 0, 0));
        prop_assert_eq!((users.other_keys.len(), users.previous.len()), (0, 0));
    }
}

#[test]
fn an_entry_of_a_user_stays_small() {
    assert_eq!(size_of::<Option<Record>>(), 88);
}
