use proptest::prelude::*;
use time::OffsetDateTime;
use wire_contract::{
    ApiKey, Bookmark, DIGEST_VERSION, KeyDigest, PreviousKey, SnapshotAborted, SnapshotStarted,
    SyncAborted, SyncStarted, key_hash,
};

use super::*;

const EPOCH: i64 = 1;

fn record(user_id: UserId, key: &str, version: i64) -> UserRecord {
    UserRecord {
        user_id,
        api_key: Some(ApiKey::Plain(key.to_owned())),
        username: format!("user-{user_id}"),
        is_active: true,
        daily_quota: 100,
        previous_keys: vec![],
        version,
    }
}

fn updated(sequence: i64, user: UserRecord) -> ConfigEvent {
    ConfigEvent::UserUpdated(UserUpdated {
        user,
        epoch: EPOCH,
        sequence: Some(sequence),
        sync_id: None,
        as_of: None,
        occurred_at: OffsetDateTime::UNIX_EPOCH,
    })
}

fn sync_row(sync_id: Uuid, as_of: i64, user: UserRecord) -> ConfigEvent {
    ConfigEvent::UserUpdated(UserUpdated {
        user,
        epoch: EPOCH,
        sequence: None,
        sync_id: Some(sync_id),
        as_of: Some(as_of),
        occurred_at: OffsetDateTime::UNIX_EPOCH,
    })
}

fn deleted(sequence: i64, user_id: UserId, version: i64) -> ConfigEvent {
    ConfigEvent::UserDeleted(UserDeleted {
        user_id,
        api_key: None,
        version,
        epoch: EPOCH,
        sequence,
        occurred_at: OffsetDateTime::UNIX_EPOCH,
    })
}

fn started(snapshot_id: Uuid) -> ConfigEvent {
    ConfigEvent::SnapshotStarted(SnapshotStarted {
        snapshot_id,
        credit_queue: "credit".to_owned(),
        window: 4,
        users: None,
    })
}

fn chunk(snapshot_id: Uuid, index: u32, as_of: i64, users: &[UserRecord]) -> ConfigEvent {
    ConfigEvent::SnapshotChunk(SnapshotChunk {
        snapshot_id,
        index,
        as_of: at(as_of),
        users: users.to_vec(),
    })
}

fn digest_of(users: &[UserRecord]) -> UserSetDigest {
    users
        .iter()
        .fold(UserSetDigest::default(), |mut sum, user| {
            sum += UserSetDigest::of_user(user);
            sum
        })
}

fn completed(snapshot_id: Uuid, sequence: i64, users: &[UserRecord]) -> ConfigEvent {
    ConfigEvent::SnapshotCompleted(SnapshotCompleted {
        snapshot_id,
        position: at(sequence),
        comparable_from: sequence,
        count: users.len() as u64,
        digest: digest_of(users),
        digest_version: DIGEST_VERSION,
    })
}

fn bookmark(sequence: i64, users: &[UserRecord]) -> ConfigEvent {
    ConfigEvent::Bookmark(Bookmark {
        position: at(sequence),
        count: users.len() as u64,
        digest: digest_of(users),
        digest_version: DIGEST_VERSION,
        audited_at: None,
    })
}

fn at(sequence: i64) -> Position {
    Position {
        epoch: EPOCH,
        sequence,
    }
}

/// A cache that has taken a snapshot of `users` at `sequence`.
fn synced(sequence: i64, users: &[UserRecord]) -> CacheState {
    let mut state = CacheState::new();
    state.subscribed();
    take_snapshot(&mut state, sequence, users);
    state
}

fn take_snapshot(state: &mut CacheState, sequence: i64, users: &[UserRecord]) {
    let id = Uuid::now_v7();
    state.apply(started(id));
    state.apply(chunk(id, 0, sequence, users));
    assert_eq!(
        state.apply(completed(id, sequence, users)),
        Effect::SourceCompleted
    );
}

fn who(state: &CacheState, key: &str) -> Option<UserId> {
    state
        .look_up(&KeyDigest::of(key).short(), 0)
        .map(|user| user.user_id)
}

#[test]
fn zero_users_is_a_complete_cache() {
    let state = synced(0, &[]);
    assert!(state.is_complete());
    assert_eq!(state.len(), 0);
    assert_eq!(state.wanted(), None);
}

#[test]
fn a_half_received_snapshot_is_not_complete() {
    let mut state = CacheState::new();
    state.subscribed();
    let id = Uuid::now_v7();
    state.apply(started(id));
    state.apply(chunk(id, 0, 5, &[record(1, "k1", 1)]));
    assert!(!state.is_complete());
}

#[test]
fn a_changed_key_is_refused_and_its_successor_accepted() {
    let mut state = synced(5, &[record(1, "k1", 1)]);
    state.apply(updated(6, record(1, "k2", 2)));
    assert_eq!(who(&state, "k1"), None);
    assert_eq!(who(&state, "k2"), Some(1));
    assert_eq!(
        state.apply(bookmark(6, &[record(1, "k2", 2)])),
        Effect::Proven
    );
}

#[test]
fn a_previous_key_is_accepted_until_it_expires() {
    let mut user = record(1, "k2", 2);
    user.previous_keys = vec![PreviousKey {
        digest: KeyDigest::of("k1"),
        expires_at: OffsetDateTime::from_unix_timestamp(100).expect("a time"),
    }];
    let state = synced(5, std::slice::from_ref(&user));
    let k1 = KeyDigest::of("k1").short();
    assert!(state.look_up(&k1, 99_999_999).is_some());
    assert!(state.look_up(&k1, 100_000_000).is_none());
    assert_eq!(state.digest(), digest_of(&[user]));
}

#[test]
fn a_deleted_user_is_gone_and_stays_gone_when_the_event_is_repeated() {
    let mut state = synced(5, &[record(1, "k1", 1)]);
    state.apply(deleted(6, 1, 2));
    assert_eq!(who(&state, "k1"), None);
    assert_eq!(
        state.apply(updated(5, record(1, "k1", 1))),
        Effect::Duplicate
    );
    assert_eq!(who(&state, "k1"), None);
    assert_eq!(state.apply(bookmark(6, &[])), Effect::Proven);
}

#[test]
fn a_user_deleted_while_disconnected_is_swept_by_the_next_snapshot() {
    let mut state = synced(5, &[record(1, "k1", 1), record(2, "k2", 2)]);
    state.subscribed();
    assert_eq!(
        who(&state, "k1"),
        Some(1),
        "served until it is known better"
    );
    take_snapshot(&mut state, 9, &[record(2, "k2", 2)]);
    assert_eq!(who(&state, "k1"), None);
    assert_eq!(who(&state, "k2"), Some(2));
}

#[test]
fn a_snapshot_whose_rows_do_not_add_up_sweeps_nothing_and_another_is_wanted() {
    let mut state = synced(5, &[record(1, "k1", 1), record(2, "k2", 2)]);
    let id = Uuid::now_v7();
    state.apply(started(id));
    let effect = state.apply(completed(id, 9, &[record(2, "k2", 2)]));
    assert_eq!(effect, Effect::SourceBroken);
    assert_eq!(who(&state, "k1"), Some(1));
    assert_eq!(state.wanted(), Some(SnapshotCause::Failed));
}

#[test]
fn a_source_with_a_digest_of_an_unknown_version_settles_the_position_and_sweeps_nothing() {
    let mut state = synced(5, &[record(1, "k1", 1), record(2, "k2", 2)]);
    state.subscribed();
    let id = Uuid::now_v7();
    state.apply(started(id));
    let rows = [record(2, "k2", 2)];
    state.apply(chunk(id, 0, 9, &rows));
    let ConfigEvent::SnapshotCompleted(mut end) = completed(id, 9, &rows) else {
        panic!("not an end");
    };
    end.digest_version += 1;
    let effect = state.apply(ConfigEvent::SnapshotCompleted(end));
    assert_eq!(effect, Effect::SourceCompleted);
    assert_eq!((state.applied(), state.wanted()), (Some(at(9)), None));
    assert_eq!(who(&state, "k1"), Some(1), "the count alone proves nothing");
    assert_eq!(state.apply(bookmark(9, &rows)), Effect::Mismatch);
    assert_eq!(state.wanted(), Some(SnapshotCause::Mismatch));
}

#[test]
fn an_older_row_of_a_snapshot_does_not_undo_what_the_stream_brought_since_its_start() {
    let mut state = synced(5, &[record(1, "k1", 1), record(2, "k2", 2)]);
    let id = Uuid::now_v7();
    state.apply(started(id));
    state.apply(updated(6, record(1, "k1-new", 3)));
    state.apply(deleted(7, 2, 4));
    let rows = [record(1, "k1", 1), record(2, "k2", 2)];
    state.apply(chunk(id, 0, 5, &rows));
    assert_eq!(
        state.apply(completed(id, 5, &rows)),
        Effect::SourceCompleted
    );
    assert_eq!(who(&state, "k1"), None);
    assert_eq!(who(&state, "k1-new"), Some(1));
    assert_eq!(who(&state, "k2"), None);
    assert_eq!(
        state.apply(bookmark(7, &[record(1, "k1-new", 3)])),
        Effect::Proven
    );
}

#[test]
fn a_row_replaces_an_untouched_entry_even_of_a_higher_version() {
    // After drift or a restore the cache may hold a version that the database never had.
    let mut state = synced(5, &[record(1, "wrong", 9)]);
    take_snapshot(&mut state, 5, &[record(1, "right", 3)]);
    assert_eq!(who(&state, "wrong"), None);
    assert_eq!(who(&state, "right"), Some(1));
}

#[test]
fn a_row_takes_a_key_from_an_untouched_holder_of_a_higher_version() {
    let mut state = synced(5, &[record(1, "key", 9)]);
    take_snapshot(&mut state, 5, &[record(2, "key", 3), record(1, "other", 2)]);
    assert_eq!(who(&state, "key"), Some(2));
    assert_eq!(who(&state, "other"), Some(1));
}

#[test]
fn rows_of_a_source_whose_start_was_not_seen_are_ignored() {
    let mut state = synced(5, &[record(1, "k1", 1)]);
    let id = Uuid::now_v7();
    let effect = state.apply(chunk(id, 0, 5, &[record(2, "k2", 2)]));
    assert_eq!(effect, Effect::UnknownSource);
    assert_eq!(
        state.apply(sync_row(id, 5, record(2, "k2", 2))),
        Effect::UnknownSource
    );
    assert_eq!(state.apply(completed(id, 9, &[])), Effect::UnknownSource);
    assert_eq!(who(&state, "k1"), Some(1));
    assert_eq!(who(&state, "k2"), None);
}

#[test]
fn a_full_sync_sweeps_what_it_did_not_tell_of() {
    let mut state = synced(5, &[record(1, "k1", 1), record(2, "k2", 2)]);
    let sync_id = Uuid::now_v7();
    state.apply(ConfigEvent::SyncStarted(SyncStarted { sync_id }));
    state.apply(sync_row(sync_id, 5, record(2, "k2", 2)));
    let rows = [record(2, "k2", 2)];
    let effect = state.apply(ConfigEvent::SyncCompleted(SyncCompleted {
        sync_id,
        position: at(5),
        comparable_from: 5,
        count: 1,
        digest: digest_of(&rows),
        digest_version: DIGEST_VERSION,
    }));
    assert_eq!(effect, Effect::SourceCompleted);
    assert_eq!(who(&state, "k1"), None);
    assert_eq!(state.last_sync_id(), Some(sync_id));
}

#[test]
fn what_one_source_swept_another_that_read_earlier_does_not_bring_back() {
    let mut state = synced(5, &[record(1, "k1", 1)]);
    let (slow, fast) = (Uuid::now_v7(), Uuid::now_v7());
    state.apply(started(slow));
    state.apply(started(fast));
    assert_eq!(
        state.apply(completed(fast, 6, &[])),
        Effect::SourceCompleted
    );
    let rows = [record(1, "k1", 1)];
    state.apply(chunk(slow, 0, 5, &rows));
    state.apply(completed(slow, 5, &rows));
    assert_eq!(who(&state, "k1"), None);
}

#[test]
fn a_deletion_whose_number_counts_as_seen_still_keeps_an_older_source_from_bringing_the_user_back()
{
    let mut state = CacheState::new();
    state.subscribed();
    let (slow, fast) = (Uuid::now_v7(), Uuid::now_v7());
    // The full sync has read at 5, where the user was; the snapshot at 6, where it was gone.
    state.apply(ConfigEvent::SyncStarted(SyncStarted { sync_id: slow }));
    state.apply(started(fast));
    state.apply(completed(fast, 6, &[]));
    // The leader that numbered the deletion died; the next one publishes it.
    assert_eq!(state.apply(deleted(6, 1, 3)), Effect::Duplicate);
    state.apply(sync_row(slow, 5, record(1, "k1", 2)));
    assert_eq!(who(&state, "k1"), None);
}

#[test]
fn a_gap_needs_a_snapshot_that_started_after_it() {
    let mut state = synced(5, &[]);
    let early = Uuid::now_v7();
    state.apply(started(early));
    assert_eq!(state.apply(updated(8, record(1, "k1", 3))), Effect::Gap);
    assert_eq!(who(&state, "k1"), Some(1), "the event itself is good");
    state.apply(completed(early, 6, &[]));
    assert_eq!(state.wanted(), Some(SnapshotCause::Gap));
    assert_eq!(state.applied(), None);
    take_snapshot(&mut state, 8, &[record(1, "k1", 3)]);
    assert_eq!(state.wanted(), None);
    assert_eq!(state.applied(), Some(at(8)));
}

#[test]
fn a_bookmark_ahead_of_the_stream_is_a_gap() {
    let mut state = synced(5, &[]);
    assert_eq!(state.apply(bookmark(7, &[record(1, "k1", 3)])), Effect::Gap);
    assert_eq!(state.wanted(), Some(SnapshotCause::Gap));
}

#[test]
fn a_digest_that_differs_asks_for_a_snapshot() {
    let mut state = synced(5, &[record(1, "k1", 1)]);
    assert_eq!(
        state.apply(bookmark(5, &[record(1, "k1", 2)])),
        Effect::Mismatch
    );
    assert_eq!(state.wanted(), Some(SnapshotCause::Mismatch));
    assert_eq!(state.proven(), None);
}

#[test]
fn a_key_left_behind_in_the_index_makes_the_digest_differ() {
    let mut state = synced(5, &[record(1, "k1", 1)]);
    // What a forgotten release would leave.
    let key = KeyDigest::of("left behind").short();
    let hash = key_hash(1, &key, None);
    state.users.claim(key, hash, 1, (EPOCH, 1), None, None);
    assert_eq!(
        state.apply(bookmark(5, &[record(1, "k1", 1)])),
        Effect::Mismatch
    );
}

#[test]
fn the_last_applied_position_outlives_gaps_and_subscriptions_and_is_never_ahead() {
    let users = [record(1, "k1", 1)];
    let mut state = CacheState::new();
    state.subscribed();
    state.apply(updated(4, record(1, "k1", 1)));
    assert_eq!(state.last_applied(), None);
    take_snapshot(&mut state, 5, &users);
    assert_eq!(state.last_applied(), Some(at(5)));
    assert_eq!(state.apply(bookmark(9, &users)), Effect::Gap);
    state.apply(updated(10, record(1, "k1", 2)));
    assert_eq!((state.applied(), state.last_applied()), (None, Some(at(5))));
    state.subscribed();
    assert_eq!((state.applied(), state.last_applied()), (None, Some(at(5))));
    take_snapshot(&mut state, 11, &users);
    assert_eq!(state.last_applied(), Some(at(11)));
}

#[test]
fn an_unknown_digest_version_is_unprovable_not_wrong() {
    let mut state = synced(5, &[]);
    let effect = state.apply(ConfigEvent::Bookmark(Bookmark {
        position: at(5),
        count: 0,
        digest: digest_of(&[record(1, "x", 1)]),
        digest_version: DIGEST_VERSION + 1,
        audited_at: None,
    }));
    assert_eq!(effect, Effect::NotComparable);
    assert_eq!(state.wanted(), None);
}

#[test]
fn credit_is_due_after_half_a_window() {
    let mut state = CacheState::new();
    state.subscribed();
    let id = Uuid::now_v7();
    state.apply(started(id));
    state.apply(chunk(id, 0, 5, &[]));
    assert_eq!(state.take_credit(id, "q"), None);
    state.apply(chunk(id, 1, 5, &[]));
    let (queue, credit) = state.take_credit(id, "q").expect("two of four");
    assert_eq!((queue.as_str(), credit.chunks), ("credit", 2));
    assert_eq!(state.take_credit(id, "q"), None);
}

#[test]
fn a_stalled_snapshot_that_was_given_up_is_wanted_again() {
    let mut state = CacheState::new();
    state.subscribed();
    let id = Uuid::now_v7();
    state.apply(started(id));
    assert_eq!(state.wanted(), None);
    state.abandon(id);
    assert_eq!(state.wanted(), Some(SnapshotCause::Failed));
}

#[test]
fn a_source_that_server_b_gave_up_is_given_up_at_once() {
    let mut state = CacheState::new();
    state.subscribed();
    let snapshot_id = Uuid::now_v7();
    state.apply(started(snapshot_id));
    let aborted = ConfigEvent::SnapshotAborted(SnapshotAborted { snapshot_id });
    assert_eq!(state.apply(aborted.clone()), Effect::SourceAborted);
    assert_eq!(state.under_way().next(), None);
    assert_eq!(state.wanted(), Some(SnapshotCause::Failed));
    assert_eq!(state.apply(aborted), Effect::UnknownSource);
    let sync_id = Uuid::now_v7();
    state.apply(ConfigEvent::SyncStarted(SyncStarted { sync_id }));
    let aborted = ConfigEvent::SyncAborted(SyncAborted { sync_id });
    assert_eq!(state.apply(aborted), Effect::SourceAborted);
    assert_eq!(state.syncing(), None);
}

/// A change of the database: a user gets a key (perhaps another's) or goes.
#[derive(Debug, Clone)]
enum Change {
    Set { user: UserId, key: u8 },
    Delete { user: UserId },
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        4 => (0..5_i64, 0..6_u8).prop_map(|(user, key)| Change::Set { user, key }),
        1 => (0..5_i64).prop_map(|user| Change::Delete { user }),
    ];
    prop::collection::vec(change, 1..40)
}

/// The database after each change, and the event of each: a key moves by its old holder losing it first.
fn history(changes: &[Change]) -> (Vec<Vec<UserRecord>>, Vec<ConfigEvent>) {
    let mut users: Vec<UserRecord> = Vec::new();
    let (mut states, mut events) = (vec![vec![]], Vec::new());
    let mut version = 0;
    for change in changes {
        let mut writes = Vec::new();
        match change {
            Change::Set { user, key } => {
                let key = ApiKey::Plain(format!("key-{key}"));
                if let Some(holder) = users
                    .iter_mut()
                    .find(|other| other.user_id != *user && other.api_key.as_ref() == Some(&key))
                {
                    version += 1;
                    holder.api_key = None;
                    holder.version = version;
                    writes.push(Some(holder.clone()));
                }
                version += 1;
                let mut new = record(*user, "", version);
                new.api_key = Some(key);
                users.retain(|other| other.user_id != *user);
                users.push(new.clone());
                writes.push(Some(new));
            }
            Change::Delete { user } => {
                version += 1;
                if users.iter().any(|other| other.user_id == *user) {
                    users.retain(|other| other.user_id != *user);
                    let sequence = i64::try_from(events.len()).expect("small") + 1;
                    events.push(deleted(sequence, *user, version));
                    states.push(users.clone());
                }
            }
        }
        for write in writes.into_iter().flatten() {
            let sequence = i64::try_from(events.len()).expect("small") + 1;
            events.push(updated(sequence, write));
            states.push(users.clone());
        }
    }
    (states, events)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever a subscription began with, whenever the snapshot was read, however its rows fall between the
    /// events, and whatever is repeated: at the end the cache equals the database and proves it.
    #[test]
    fn a_subscription_with_a_snapshot_converges_to_the_database(
        changes in changes(),
        before in 0_usize..40,
        bound in 0_usize..40,
        read in 0_usize..40,
        start_after in 0_usize..10,
        gaps in prop::collection::vec(0_usize..6, 8),
        repeat in prop::collection::vec(0_usize..40, 0..4),
    ) {
        let (states, events) = history(&changes);
        let last = events.len();
        // A former connection left the cache at some older state.
        let before = before.min(last);
        let mut cache = synced(i64::try_from(before).expect("small"), &states[before]);
        // Bound at `bound`; the snapshot is read at or after it.
        let bound = bound.clamp(before, last);
        let read = read.clamp(bound, last);
        let rows = states[read].clone();
        let id = Uuid::now_v7();
        let mut snapshot = std::collections::VecDeque::from([started(id)]);
        for (index, row) in rows.iter().enumerate() {
            let as_of = i64::try_from(read).expect("small");
            let index = u32::try_from(index).expect("small");
            snapshot.push_back(chunk(id, index, as_of, std::slice::from_ref(row)));
        }
        snapshot.push_back(completed(id, i64::try_from(read).expect("small"), &rows));

        cache.subscribed();
        // `started` arrives before the read, so before any event that the read has not seen.
        let start_after = start_after.min(read - bound);
        let mut gaps = gaps.into_iter().cycle();
        let mut wait = start_after;
        for (index, event) in events.iter().enumerate().skip(bound) {
            while wait == 0 {
                let Some(message) = snapshot.pop_front() else { break };
                cache.apply(message);
                wait = gaps.next().unwrap_or(0);
            }
            wait = wait.saturating_sub(1);
            cache.apply(event.clone());
            for &back in &repeat {
                if back <= index && index - back >= bound {
                    cache.apply(events[index - back].clone());
                }
            }
        }
        for message in snapshot {
            cache.apply(message);
        }

        let end = &states[last];
        prop_assert_eq!(cache.wanted(), None);
        prop_assert_eq!(cache.digest(), digest_of(end));
        prop_assert_eq!(cache.len(), end.len() as u64);
        for key in 0..6 {
            let key = format!("key-{key}");
            let holder = end
                .iter()
                .find(|user| user.api_key == Some(ApiKey::Plain(key.clone())))
                .map(|user| user.user_id);
            prop_assert_eq!(who(&cache, &key), holder);
        }
        let mark = bookmark(i64::try_from(last).expect("small"), end);
        prop_assert_eq!(cache.apply(mark), Effect::Proven);
    }
}
