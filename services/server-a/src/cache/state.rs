//! The cache as a pure state machine: no clock, no I/O, one writer.
//!
//! The same function is linked by the service and by the model checker. Rules, from the design:
//! - a stream event wins if its (epoch, version) is higher; a delete leaves a tombstone
//! - a row of a snapshot or full sync (a *source*) replaces the entry as it is, unless anything touched
//!   that entry since the source started; then the higher version wins, and of equal ones the later read
//! - only sources whose start this subscription saw, and whose end it has not seen, are obeyed
//! - at a source's end, if its count and digest add up (of a digest whose version is unknown nobody can tell: nothing
//!   is swept then), entries are swept that nothing touched since it
//!   started, or that are only known from before the position it read: the events up to that position
//!   count as seen from then on, so a delete among them will not come
//! - a row that was read before a source that has completed meanwhile counts, but is not news
//! - tombstones live until every source has ended

mod memory;

use std::collections::HashMap;
use std::sync::Arc;

use time::OffsetDateTime;
use uuid::Uuid;
use wire_contract::{
    Bookmark, ConfigEvent, DIGEST_VERSION, Position, ShortDigest, SnapshotCause, SnapshotChunk,
    SnapshotCompleted, SnapshotCredit, SnapshotStarted, SyncProgress, UserDeleted, UserId,
    UserRecord, UserSetDigest, UserUpdated, key_hash, user_hash,
};

use super::ClientConfig;

/// Orders changes of one user.
type Rank = (i64, i64);

/// A user as the cache keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct User {
    username: Arc<str>,
    is_active: bool,
    daily_quota: i32,
    /// Current key, if any, and previous ones with their expiry in microseconds since the epoch.
    keys: Box<[(ShortDigest, Option<i64>)]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    rank: Rank,
    /// Sequence (of the rank's epoch) up to which this is known to be the user's state.
    as_of: i64,
    /// Reading of the state's own clock when the entry was last written or confirmed.
    touched: u64,
    /// `None` is a tombstone.
    user: Option<User>,
}

impl Entry {
    /// The entry was told of again, and what it holds is at least as new.
    fn confirm(&mut self, epoch: i64, as_of: i64, clock: u64) {
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

/// A snapshot or a full sync under way.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    id: Uuid,
    started: u64,
    rows: u64,
    digest: UserSetDigest,
    /// Position up to which another source, completed meanwhile, has told everything.
    overtaken: Option<Position>,
    /// Chunks seen and where credit goes; a full sync has none.
    chunks: Option<ChunkState>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct ChunkState {
    seen: u32,
    credited: u32,
    window: u32,
    credit_queue: String,
}

/// How far a snapshot or full sync is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceProgress {
    /// Names it.
    pub id: Uuid,
    /// A snapshot, or else a full sync.
    pub snapshot: bool,
    /// Rows taken in.
    pub rows: u64,
}

/// What the event did, for counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// The cache, or what it knows of a source, changed.
    Applied,
    /// The entry was newer.
    Stale,
    /// The number was seen before.
    Duplicate,
    /// A row, chunk or end of a source that this subscription is not to obey.
    UnknownSource,
    /// An older epoch speaks.
    OldEpoch,
    /// A source ended with all rows in place.
    SourceCompleted,
    /// A source ended but its rows do not add up: nothing was swept.
    SourceBroken,
    /// Server B gave a source up.
    SourceAborted,
    /// A bookmark with the same digest.
    Proven,
    /// A bookmark with another digest.
    Mismatch,
    /// A bookmark that cannot be compared (yet).
    NotComparable,
    /// Numbers are missing.
    Gap,
}

/// A rule of the merge. Only the model checker can take one away, to see that it is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Of stream events the higher (epoch, version) wins.
    HigherVersionWins,
    /// A number that was seen is not taken again.
    NumbersOnce,
    /// A row is compared with what touched its entry since its source started.
    TouchedEntriesAreCompared,
    /// A row replaces an entry that nothing touched, as it is.
    UntouchedEntriesAreReplaced,
    /// A row that was read before a completed source is not news.
    OldReadsAreNotNews,
    /// A completed source sweeps what nothing touched.
    Sweep,
    /// It sweeps what is known only from before its position, too.
    SweepByPosition,
    /// Deletes leave tombstones while a source is under way.
    Tombstones,
    /// A key goes to the newer claim.
    KeysFollowVersions,
    /// A key that its holder has lost is found no more.
    KeysAreReleased,
    /// After a gap only a source that started later settles the position.
    SourceAfterGap,
    /// A source settles the position only if the stream seen since joins it.
    StreamJoinsSource,
    /// Nothing is proven while a source is under way.
    NoProofUnderWay,
    /// Nothing is compared while a snapshot is needed.
    NoProofInNeed,
    /// Digests that differ ask for a snapshot.
    MismatchAsks,
    /// A bookmark ahead of the stream is a gap.
    BookmarkAheadIsGap,
}

/// See the module's documentation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheState {
    users: HashMap<UserId, Entry>,
    keys: HashMap<ShortDigest, KeySlot>,
    digest: UserSetDigest,
    live: u64,
    tombstones: u64,
    clock: u64,
    sources: Vec<Source>,
    /// First and last number seen on this subscription's stream.
    first_seen: Option<Position>,
    seen: Option<Position>,
    /// Everything up to here was applied at one time; set by the first completed source.
    applied: Option<Position>,
    /// And nothing is missing since.
    whole: bool,
    comparable_from: Option<Position>,
    proven: Option<Position>,
    audited_at: Option<OffsetDateTime>,
    last_sync_id: Option<Uuid>,
    /// A snapshot is needed that starts after this reading of the clock.
    need: Option<(SnapshotCause, u64)>,
    #[cfg(feature = "model")]
    without: Option<Rule>,
}

impl CacheState {
    /// An empty cache, not complete.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same without one of its rules.
    #[cfg(feature = "model")]
    #[must_use]
    pub fn without(mut self, rule: Rule) -> Self {
        self.without = Some(rule);
        self
    }

    #[cfg(feature = "model")]
    fn has(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }

    #[cfg(not(feature = "model"))]
    #[expect(
        clippy::unused_self,
        reason = "only the model checker can take a rule away"
    )]
    const fn has(&self, _: Rule) -> bool {
        true
    }

    /// A fresh queue is bound: anything may have been missed before it. The users stay, unproven.
    pub fn subscribed(&mut self) {
        self.clock += 1;
        self.sources.clear();
        self.purge_tombstones();
        self.first_seen = None;
        self.seen = None;
        self.whole = false;
        self.comparable_from = None;
        self.need = Some((SnapshotCause::Connected, self.clock));
    }

    /// Gives up a source that stays silent, or that server B gave up. Its rows may be ahead of the stream; from where
    /// on the cache can be compared again, only a snapshot tells. Returns whether there was one.
    pub fn abandon(&mut self, id: Uuid) -> bool {
        let Some(index) = self.source(id) else {
            return false;
        };
        self.sources.remove(index);
        self.purge_tombstones();
        self.ask(SnapshotCause::Failed);
        true
    }

    fn aborted(&mut self, id: Uuid) -> Effect {
        if self.abandon(id) {
            Effect::SourceAborted
        } else {
            Effect::UnknownSource
        }
    }

    /// Takes one event in.
    pub fn apply(&mut self, event: ConfigEvent) -> Effect {
        self.clock += 1;
        match event {
            ConfigEvent::UserUpdated(event) => match event.sync_id {
                Some(id) => self.sync_row(id, &event),
                None => self.user_updated(&event),
            },
            ConfigEvent::UserDeleted(event) => self.user_deleted(&event),
            ConfigEvent::SnapshotStarted(event) => self.snapshot_started(event),
            ConfigEvent::SnapshotChunk(event) => self.snapshot_chunk(&event),
            ConfigEvent::SnapshotCompleted(event) => {
                self.source_completed(event.snapshot_id, &event)
            }
            ConfigEvent::SnapshotAborted(event) => self.aborted(event.snapshot_id),
            ConfigEvent::SyncStarted(event) => self.start(event.sync_id, None),
            ConfigEvent::SyncAborted(event) => self.aborted(event.sync_id),
            ConfigEvent::SyncCompleted(event) => {
                let effect = self.source_completed(
                    event.sync_id,
                    &SnapshotCompleted {
                        snapshot_id: event.sync_id,
                        position: event.position,
                        comparable_from: event.comparable_from,
                        count: event.count,
                        digest: event.digest,
                        digest_version: event.digest_version,
                    },
                );
                if effect == Effect::SourceCompleted {
                    self.last_sync_id = Some(event.sync_id);
                }
                effect
            }
            ConfigEvent::Bookmark(event) => self.bookmark(&event),
            // Tells of server B, not of users.
            ConfigEvent::ProbeAnswer(_) => Effect::Applied,
        }
    }

    fn user_updated(&mut self, event: &UserUpdated) -> Effect {
        let position = Position {
            epoch: event.epoch,
            sequence: event.sequence.unwrap_or(0),
        };
        let effect = self.advance(position);
        if matches!(effect, Effect::Duplicate | Effect::OldEpoch) {
            return effect;
        }
        let rank = (event.epoch, event.user.version);
        let user = Some(user_of(&event.user));
        self.stream_write(event.user.user_id, rank, position.sequence, user, effect)
    }

    fn user_deleted(&mut self, event: &UserDeleted) -> Effect {
        let position = Position {
            epoch: event.epoch,
            sequence: event.sequence,
        };
        let effect = self.advance(position);
        if effect == Effect::OldEpoch {
            return effect;
        }
        // Also of a number that counts as seen: a source that read before the deletion may still tell of the user,
        // and without the tombstone bring it back. A repeated deletion does no harm: versions only grow.
        let rank = (event.epoch, event.version);
        self.stream_write(event.user_id, rank, event.sequence, None, effect)
    }

    fn stream_write(
        &mut self,
        id: UserId,
        rank: Rank,
        as_of: i64,
        user: Option<User>,
        effect: Effect,
    ) -> Effect {
        if self.has(Rule::HigherVersionWins)
            && let Some(entry) = self.users.get_mut(&id)
            && entry.rank >= rank
        {
            entry.confirm(rank.0, as_of, self.clock);
            return match effect {
                Effect::Applied => Effect::Stale,
                other => other,
            };
        }
        self.put(id, rank, as_of, user, None);
        effect
    }

    /// Follows the numbers of the stream. A gap is noted; the event itself is still good.
    fn advance(&mut self, position: Position) -> Effect {
        let Some(seen) = self.seen else {
            self.first_seen = Some(position);
            self.seen = Some(position);
            return Effect::Applied;
        };
        if position.epoch < seen.epoch {
            return Effect::OldEpoch;
        }
        if position <= seen && self.has(Rule::NumbersOnce) {
            return Effect::Duplicate;
        }
        self.seen = Some(position);
        if position.epoch > seen.epoch || position.sequence > seen.sequence + 1 {
            self.gap();
            return Effect::Gap;
        }
        if self.whole {
            self.applied = self.seen;
        }
        Effect::Applied
    }

    /// What has been seen no longer adds up to everything: only a snapshot that starts later does.
    fn gap(&mut self) {
        self.whole = false;
        self.first_seen = self.seen;
        self.ask(SnapshotCause::Gap);
    }

    fn ask(&mut self, cause: SnapshotCause) {
        self.need = Some((cause, self.clock));
    }

    fn snapshot_started(&mut self, event: SnapshotStarted) -> Effect {
        self.start(
            event.snapshot_id,
            Some(ChunkState {
                seen: 0,
                credited: 0,
                window: event.window,
                credit_queue: event.credit_queue,
            }),
        )
    }

    fn start(&mut self, id: Uuid, chunks: Option<ChunkState>) -> Effect {
        self.sources.retain(|source| source.id != id);
        self.sources.push(Source {
            id,
            started: self.clock,
            rows: 0,
            digest: UserSetDigest::default(),
            overtaken: None,
            chunks,
        });
        Effect::Applied
    }

    fn snapshot_chunk(&mut self, chunk: &SnapshotChunk) -> Effect {
        let Some(index) = self.source(chunk.snapshot_id) else {
            return Effect::UnknownSource;
        };
        if let Some(chunks) = &mut self.sources[index].chunks {
            chunks.seen = chunks.seen.max(chunk.index + 1);
        }
        for user in &chunk.users {
            self.row(index, chunk.as_of, user);
        }
        Effect::Applied
    }

    fn sync_row(&mut self, id: Uuid, event: &UserUpdated) -> Effect {
        let Some(index) = self.source(id) else {
            return Effect::UnknownSource;
        };
        let as_of = Position {
            epoch: event.epoch,
            sequence: event.as_of.unwrap_or(0),
        };
        self.row(index, as_of, &event.user)
    }

    fn row(&mut self, index: usize, as_of: Position, user: &UserRecord) -> Effect {
        let source = &mut self.sources[index];
        source.rows += 1;
        source.digest += UserSetDigest::of_user(user);
        let (started, overtaken) = (source.started, source.overtaken);
        // A source that read later has completed: what this row tells of has changed, or gone, since.
        if self.has(Rule::OldReadsAreNotNews) && overtaken.is_some_and(|read| as_of < read) {
            return Effect::Stale;
        }
        let rank = (as_of.epoch, user.version);
        let (compare, replace) = (
            self.has(Rule::TouchedEntriesAreCompared),
            self.has(Rule::UntouchedEntriesAreReplaced),
        );
        if let Some(entry) = self.users.get_mut(&user.user_id)
            && (entry.touched > started || !replace)
            && compare
            && (entry.rank, entry.as_of) >= (rank, as_of.sequence)
        {
            entry.confirm(as_of.epoch, as_of.sequence, self.clock);
            return Effect::Stale;
        }
        let record = Some(user_of(user));
        self.put(user.user_id, rank, as_of.sequence, record, Some(started));
        Effect::Applied
    }

    /// Ends a source: sweeps when its rows add up, and takes its position over.
    fn source_completed(&mut self, id: Uuid, end: &SnapshotCompleted) -> Effect {
        let Some(index) = self.source(id) else {
            return Effect::UnknownSource;
        };
        let source = self.sources.remove(index);
        let provable = end.digest_version == DIGEST_VERSION;
        let adds_up = source.rows == end.count && (!provable || source.digest == end.digest);
        if !adds_up {
            self.purge_tombstones();
            self.ask(SnapshotCause::Failed);
            return Effect::SourceBroken;
        }
        for other in &mut self.sources {
            other.overtaken = other.overtaken.max(Some(end.position));
        }
        if provable && self.has(Rule::Sweep) {
            self.sweep(source.started, end.position);
        }
        self.purge_tombstones();
        self.settle_position(&source, end);
        Effect::SourceCompleted
    }

    /// After a source that started after the last gap, everything up to its position is applied, and
    /// everything that the stream carried since.
    fn settle_position(&mut self, source: &Source, end: &SnapshotCompleted) {
        if self.has(Rule::SourceAfterGap)
            && self.need.is_some_and(|(_, since)| source.started <= since)
        {
            return;
        }
        let joins_stream = self.first_seen.is_none_or(|first| {
            first.epoch < end.position.epoch
                || (first.epoch == end.position.epoch
                    && first.sequence <= end.position.sequence + 1)
        });
        if !joins_stream && self.has(Rule::StreamJoinsSource) {
            self.ask(SnapshotCause::Gap);
            return;
        }
        let seen = self
            .seen
            .map_or(end.position, |seen| seen.max(end.position));
        self.seen = Some(seen);
        self.first_seen = self.first_seen.or(Some(seen));
        self.applied = Some(seen);
        self.whole = true;
        let comparable = Position {
            epoch: end.position.epoch,
            sequence: end.comparable_from,
        };
        self.comparable_from = self.comparable_from.max(Some(comparable));
        self.need = None;
    }

    fn sweep(&mut self, started: u64, position: Position) {
        let by_position = self.has(Rule::SweepByPosition);
        let gone: Vec<UserId> = self
            .users
            .iter()
            .filter(|(_, entry)| {
                entry.user.is_some()
                    && (entry.touched <= started
                        || by_position
                            && (entry.rank.0, entry.as_of) < (position.epoch, position.sequence))
            })
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            let rank = self.users[&id].rank;
            self.put(id, rank, position.sequence, None, None);
        }
    }

    fn purge_tombstones(&mut self) {
        if self.sources.is_empty() && self.tombstones > 0 {
            self.users.retain(|_, entry| entry.user.is_some());
            self.tombstones = 0;
        }
    }

    fn bookmark(&mut self, bookmark: &Bookmark) -> Effect {
        self.audited_at = bookmark.audited_at.or(self.audited_at);
        if self
            .seen
            .is_some_and(|seen| bookmark.position.epoch < seen.epoch)
        {
            return Effect::OldEpoch;
        }
        if let Some(seen) = self.seen
            && bookmark.position > seen
            && self.has(Rule::BookmarkAheadIsGap)
        {
            self.seen = Some(bookmark.position);
            self.gap();
            return Effect::Gap;
        }
        let comparable = (self.sources.is_empty() || !self.has(Rule::NoProofUnderWay))
            // Rows of a source that was given up may be ahead of the stream.
            && (self.need.is_none() || !self.has(Rule::NoProofInNeed))
            && self.applied() == Some(bookmark.position)
            && self
                .comparable_from
                .is_none_or(|from| from <= bookmark.position)
            && bookmark.digest_version == DIGEST_VERSION;
        if !comparable {
            return Effect::NotComparable;
        }
        if bookmark.digest == self.digest && bookmark.count == self.live {
            self.proven = Some(bookmark.position);
            return Effect::Proven;
        }
        self.proven = None;
        if self.need.is_none() && self.has(Rule::MismatchAsks) {
            self.ask(SnapshotCause::Mismatch);
        }
        Effect::Mismatch
    }

    fn source(&self, id: Uuid) -> Option<usize> {
        self.sources.iter().position(|source| source.id == id)
    }

    /// Writes an entry with its keys and keeps the digest true to what the look-up structures hold.
    /// `source_started` is set for a row of a source.
    fn put(
        &mut self,
        id: UserId,
        rank: Rank,
        as_of: i64,
        user: Option<User>,
        source_started: Option<u64>,
    ) {
        if let Some(old) = self.users.remove(&id) {
            self.unlink(id, &old);
        }
        let Some(user) = user else {
            // Only a source can still tell of the user; without one there is nothing to remember.
            if !self.sources.is_empty() && self.has(Rule::Tombstones) {
                self.tombstones += 1;
                self.users.insert(
                    id,
                    Entry {
                        rank,
                        as_of,
                        touched: self.clock,
                        user: None,
                    },
                );
            }
            return;
        };
        for (key, expires_at) in &user.keys {
            self.claim(*key, id, rank, *expires_at, source_started);
        }
        self.digest += hash_of(id, rank, &user);
        self.live += 1;
        self.users.insert(
            id,
            Entry {
                rank,
                as_of,
                touched: self.clock,
                user: Some(user),
            },
        );
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
                && self.has(Rule::KeysAreReleased)
            {
                self.release(*key);
            }
        }
    }

    /// A key that another user holds goes to the newer claim: by version, or to a source's row when
    /// nothing touched the holder since that source started.
    fn claim(
        &mut self,
        key: ShortDigest,
        id: UserId,
        rank: Rank,
        expires_at: Option<i64>,
        source_started: Option<u64>,
    ) {
        if let Some(slot) = self.keys.get(&key) {
            let newer_holder = self.users.get(&slot.user_id).is_some_and(|holder| {
                holder.rank > rank && source_started.is_none_or(|started| holder.touched > started)
            });
            if newer_holder && self.has(Rule::KeysFollowVersions) {
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

    /// The user that a key belongs to, unless the key has expired.
    #[must_use]
    pub fn look_up(&self, key: &ShortDigest, now_micros: i64) -> Option<ClientConfig> {
        let slot = self.keys.get(key)?;
        if slot.expires_at.is_some_and(|at| at <= now_micros) {
            return None;
        }
        let user = self.users.get(&slot.user_id)?.user.as_ref()?;
        Some(ClientConfig {
            user_id: slot.user_id,
            username: Arc::clone(&user.username),
            is_active: user.is_active,
            daily_quota: user.daily_quota,
        })
    }

    /// Why a snapshot should be asked for now, if one should.
    #[must_use]
    pub fn wanted(&self) -> Option<SnapshotCause> {
        let (cause, since) = self.need?;
        let under_way = self
            .sources
            .iter()
            .any(|source| source.chunks.is_some() && source.started > since);
        (!under_way).then_some(cause)
    }

    /// The snapshots and full syncs under way.
    pub fn under_way(&self) -> impl Iterator<Item = SourceProgress> + '_ {
        self.sources.iter().map(|source| SourceProgress {
            id: source.id,
            snapshot: source.chunks.is_some(),
            rows: source.rows,
        })
    }

    /// Where credit for a snapshot goes, and how many chunks it has seen.
    #[must_use]
    pub fn credit_of(&self, id: Uuid) -> Option<(String, u32)> {
        let chunks = self.sources[self.source(id)?].chunks.as_ref()?;
        Some((chunks.credit_queue.clone(), chunks.seen))
    }

    /// The full sync under way and the rows of it that were taken in.
    #[must_use]
    pub fn syncing(&self) -> Option<SyncProgress> {
        let source = self
            .sources
            .iter()
            .rfind(|source| source.chunks.is_none())?;
        Some(SyncProgress {
            sync_id: source.id,
            rows: source.rows,
        })
    }

    /// Credit that is due: half a window was applied since the last. Returns it with the queue that
    /// it goes to.
    pub fn take_credit(&mut self, id: Uuid, own_queue: &str) -> Option<(String, SnapshotCredit)> {
        let index = self.source(id)?;
        let chunks = self.sources[index].chunks.as_mut()?;
        if chunks.seen - chunks.credited < chunks.window.div_ceil(2) {
            return None;
        }
        chunks.credited = chunks.seen;
        Some((
            chunks.credit_queue.clone(),
            SnapshotCredit {
                snapshot_id: id,
                queue: own_queue.to_owned(),
                chunks: chunks.seen,
            },
        ))
    }

    /// Users in the cache.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.live
    }

    /// Whether there are none: a valid state.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Whether a snapshot or full sync has completed since the process began.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.applied.is_some()
    }

    /// Everything up to here is applied; `None` while a snapshot is needed.
    #[must_use]
    pub fn applied(&self) -> Option<Position> {
        self.applied.filter(|_| self.whole)
    }

    /// The last position up to which everything was applied: what the cache holds is at least as new, also behind a
    /// gap or on a fresh subscription. `None` before the first snapshot has completed.
    #[must_use]
    pub fn last_applied(&self) -> Option<Position> {
        self.applied
    }

    /// The last number seen on the stream, whole or not.
    #[must_use]
    pub fn seen(&self) -> Option<Position> {
        self.seen
    }

    /// The last position at which the digest equalled the database's.
    #[must_use]
    pub fn proven(&self) -> Option<Position> {
        self.proven
    }

    /// When server B last compared its digest with the tables themselves.
    #[must_use]
    pub fn audited_at(&self) -> Option<OffsetDateTime> {
        self.audited_at
    }

    /// The last full sync that was applied to its end.
    #[must_use]
    pub fn last_sync_id(&self) -> Option<Uuid> {
        self.last_sync_id
    }

    /// Digest of what the look-up structures hold.
    #[must_use]
    pub fn digest(&self) -> UserSetDigest {
        self.digest
    }
}

fn user_of(record: &UserRecord) -> User {
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

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
