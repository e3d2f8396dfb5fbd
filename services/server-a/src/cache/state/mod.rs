//! The cache as a pure state machine: no clock, no I/O, one writer.
//!
//! The same function is linked by the service and by the model checker. Rules, from the design:
//! - a stream event wins if its (epoch, version) is higher; a delete leaves a tombstone
//! - a number up to which everything was applied is not taken again, whether on this subscription or before it
//! - a row of a snapshot or full sync (a *source*) replaces the entry as it is, unless anything touched
//!   that entry since the source started; then the higher version wins, and of equal ones the later read
//! - only sources whose start this subscription saw, and whose end it has not seen, are obeyed
//! - at a source's end, if its count and digest add up (of a digest whose version is unknown nobody can tell: nothing
//!   is swept then), entries are swept that nothing touched since it
//!   started, or that are only known from before the position it read: the events up to that position
//!   count as seen from then on, so a delete among them will not come
//! - a row that was read before a source that has completed meanwhile counts, but is not news
//! - tombstones live until every source has ended

mod rule;
mod sources;
mod stream;
mod users;

use time::OffsetDateTime;
use uuid::Uuid;
use wire_contract::{
    ConfigEvent, Position, ShortDigest, SnapshotCause, SnapshotChunk, SnapshotCompleted,
    SnapshotCredit, SyncCompleted, SyncProgress, UserDeleted, UserId, UserRecord, UserSetDigest,
    UserUpdated,
};

use self::rule::Rules;
use self::sources::{ChunkState, Sources, Sum};
use self::stream::Stream;
use self::users::{Entry, PreviousKeys, Rank, Told, Users};
use super::ClientConfig;

pub use self::rule::Rule;
pub use self::sources::SourceProgress;

/// Users that room is made for at most, whatever is announced: twenty times what the product is made for, some 400 MB.
const RESERVED_AT_MOST: usize = 20_000_000;

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

/// See the module's documentation.
#[derive(Debug, Clone, Default)]
pub struct CacheState {
    users: Users,
    sources: Sources,
    stream: Stream,
    /// Counts what was taken in: tells what came before what.
    clock: u64,
    last_sync_id: Option<Uuid>,
    rules: Rules,
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
        self.rules = Rules::without(rule);
        self.users.rules = self.rules;
        self.stream.rules = self.rules;
        self
    }

    /// A fresh queue is bound: anything may have been missed before it. The users stay, unproven.
    pub fn subscribed(&mut self) {
        self.clock += 1;
        if self.rules.has(Rule::SubscribedForgetsSources) {
            self.sources.clear();
        }
        self.purge_tombstones();
        self.stream.begin(self.clock);
    }

    /// Gives up a source that stays silent, or that server B gave up. Its rows may be ahead of the stream; from where
    /// on the cache can be compared again, only a snapshot tells. Returns whether there was one.
    pub fn abandon(&mut self, id: Uuid) -> bool {
        let known = self.sources.end(id).is_some();
        if known {
            self.fail();
        }
        known
    }

    /// Takes one event in.
    pub fn apply(&mut self, event: ConfigEvent) -> Effect {
        self.clock += 1;
        match event {
            ConfigEvent::UserUpdated(event) => match event.sync_id {
                Some(id) => {
                    let as_of = Position {
                        epoch: event.epoch,
                        sequence: event.as_of.unwrap_or(0),
                    };
                    self.row(id, as_of, &event.user)
                }
                None => self.user_updated(&event),
            },
            ConfigEvent::UserDeleted(event) => self.user_deleted(&event),
            ConfigEvent::SnapshotStarted(event) => {
                if let Some(users) = event.users {
                    let users = usize::try_from(users).unwrap_or(usize::MAX);
                    self.users.reserve(users.min(RESERVED_AT_MOST));
                }
                let chunks = ChunkState::new(event.window, event.credit_queue);
                self.start(event.snapshot_id, Some(chunks))
            }
            ConfigEvent::SnapshotChunk(event) => self.snapshot_chunk(&event),
            ConfigEvent::SnapshotCompleted(event) => self.source_completed(&event),
            ConfigEvent::SnapshotAborted(event) => self.aborted(event.snapshot_id),
            ConfigEvent::SyncStarted(event) => self.start(event.sync_id, None),
            ConfigEvent::SyncAborted(event) => self.aborted(event.sync_id),
            ConfigEvent::SyncCompleted(event) => self.sync_completed(&event),
            ConfigEvent::Bookmark(event) => {
                let settled = self.sources.is_empty() || !self.rules.has(Rule::NoProofUnderWay);
                let held = settled.then(|| (self.users.digest(), self.users.len()));
                self.stream.compare(&event, held, self.clock)
            }
            // Tells of server B, not of users.
            ConfigEvent::ProbeAnswer(_) => Effect::Applied,
        }
    }

    fn user_updated(&mut self, event: &UserUpdated) -> Effect {
        let position = Position {
            epoch: event.epoch,
            sequence: event.sequence.unwrap_or(0),
        };
        let effect = self.stream.advance(position, self.clock);
        if matches!(effect, Effect::Duplicate | Effect::OldEpoch) {
            return effect;
        }
        let rank = (event.epoch, event.user.version);
        let user = Some(Told::of(&event.user));
        self.stream_write(event.user.user_id, rank, position.sequence, user, effect)
    }

    fn user_deleted(&mut self, event: &UserDeleted) -> Effect {
        let position = Position {
            epoch: event.epoch,
            sequence: event.sequence,
        };
        let effect = self.stream.advance(position, self.clock);
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
        user: Option<Told>,
        effect: Effect,
    ) -> Effect {
        if self.rules.has(Rule::HigherVersionWins)
            && let Some(entry) = self.users.get_mut(id)
            && self.rules.order(entry.rank) >= self.rules.order(rank)
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

    fn start(&mut self, id: Uuid, chunks: Option<ChunkState>) -> Effect {
        self.sources.start(id, self.clock, chunks);
        Effect::Applied
    }

    fn snapshot_chunk(&mut self, chunk: &SnapshotChunk) -> Effect {
        let Some(source) = self.sources.get_mut(chunk.snapshot_id) else {
            return Effect::UnknownSource;
        };
        source.count_chunk(chunk.index);
        for user in &chunk.users {
            self.row(chunk.snapshot_id, chunk.as_of, user);
        }
        Effect::Applied
    }

    fn row(&mut self, id: Uuid, as_of: Position, user: &UserRecord) -> Effect {
        let told = Told::of(user);
        let (started, overtaken) = match self.sources.get_mut(id) {
            Some(source) => {
                source.count_row(told.digest(user.user_id));
                (source.started, source.overtaken)
            }
            None if self.rules.has(Rule::EndedSourcesAreOver) => return Effect::UnknownSource,
            None => (0, None),
        };
        // A source that read later has completed: what this row tells of has changed, or gone, since.
        if self.rules.has(Rule::OldReadsAreNotNews) && overtaken.is_some_and(|read| as_of < read) {
            return Effect::Stale;
        }
        let rank = (as_of.epoch, user.version);
        let (compare, replace) = (
            self.rules.has(Rule::TouchedEntriesAreCompared),
            self.rules.has(Rule::UntouchedEntriesAreReplaced),
        );
        if let Some(entry) = self.users.get_mut(user.user_id)
            && (entry.touched > started || !replace)
            && compare
            && (self.rules.order(entry.rank), entry.as_of)
                >= (self.rules.order(rank), as_of.sequence)
        {
            entry.confirm(as_of.epoch, as_of.sequence, self.clock);
            return Effect::Stale;
        }
        let (id, sequence) = (user.user_id, as_of.sequence);
        self.put(id, rank, sequence, Some(told), Some(started));
        Effect::Applied
    }

    fn put(
        &mut self,
        id: UserId,
        rank: Rank,
        as_of: i64,
        user: Option<Told>,
        source_started: Option<u64>,
    ) {
        let (user, previous, hashes) = match user {
            Some(told) => (Some(told.user), told.previous, Some(told.hashes)),
            None => (None, PreviousKeys::default(), None),
        };
        let entry = Entry {
            rank,
            as_of,
            touched: self.clock,
            user,
        };
        // Only a source can still tell of a user that is gone; without one there is nothing to remember.
        let with_tombstones = !self.sources.is_empty();
        self.users
            .put(id, entry, previous, hashes, source_started, with_tombstones);
    }

    fn sync_completed(&mut self, event: &SyncCompleted) -> Effect {
        let effect = self.source_completed(&SnapshotCompleted {
            snapshot_id: event.sync_id,
            position: event.position,
            comparable_from: event.comparable_from,
            count: event.count,
            digest: event.digest,
            digest_version: event.digest_version,
        });
        if effect == Effect::SourceCompleted {
            self.last_sync_id = Some(event.sync_id);
        }
        effect
    }

    /// Ends a source: sweeps when its rows add up, and takes its position over.
    fn source_completed(&mut self, end: &SnapshotCompleted) -> Effect {
        let Some(source) = self.sources.end(end.snapshot_id) else {
            return Effect::UnknownSource;
        };
        let sum = source.sum(end);
        if sum == Sum::Broken {
            self.fail();
            return Effect::SourceBroken;
        }
        self.sources.overtake(end.position);
        if sum == Sum::Proven && self.rules.has(Rule::Sweep) {
            self.sweep(source.started, end.position);
        }
        self.purge_tombstones();
        self.stream.settle(source.started, end, self.clock);
        Effect::SourceCompleted
    }

    /// A source is over without a result.
    fn fail(&mut self) {
        self.purge_tombstones();
        self.stream.ask(SnapshotCause::Failed, self.clock);
    }

    fn aborted(&mut self, id: Uuid) -> Effect {
        if !self.rules.has(Rule::AbortedSourcesAreGivenUp) || self.abandon(id) {
            Effect::SourceAborted
        } else {
            Effect::UnknownSource
        }
    }

    fn sweep(&mut self, started: u64, position: Position) {
        let by_position = self.rules.has(Rule::SweepByPosition);
        let gone = |entry: &Entry| {
            entry.touched <= started
                || by_position && (entry.rank.0, entry.as_of) < (position.epoch, position.sequence)
        };
        let with_tombstones = !self.sources.is_empty();
        self.users
            .sweep(gone, position.sequence, self.clock, with_tombstones);
    }

    fn purge_tombstones(&mut self) {
        if self.sources.is_empty() {
            self.users.purge_tombstones();
        }
    }

    /// The user that a key belongs to, unless the key has expired.
    #[must_use]
    pub fn look_up(&self, key: &ShortDigest, now_micros: i64) -> Option<ClientConfig> {
        self.users.look_up(key, now_micros)
    }

    /// Why a snapshot should be asked for now, if one should.
    #[must_use]
    pub fn wanted(&self) -> Option<SnapshotCause> {
        let (cause, since) = self.stream.need?;
        // Nothing was missed: the proof that a failed source left out comes from a full sync as well. So the one that takes
        // over from another costs no snapshots.
        let or_sync = cause == SnapshotCause::Failed && self.applied().is_some();
        (!self.sources.has_begun_since(since, or_sync)).then_some(cause)
    }

    /// The snapshots and full syncs under way.
    pub fn under_way(&self) -> impl Iterator<Item = SourceProgress> + '_ {
        self.sources.under_way()
    }

    /// Where credit for a snapshot goes, and how many chunks it has seen.
    #[must_use]
    pub fn credit_of(&self, id: Uuid) -> Option<(String, u32)> {
        self.sources.credit_of(id)
    }

    /// The full sync under way and the rows of it that were taken in.
    #[must_use]
    pub fn syncing(&self) -> Option<SyncProgress> {
        self.sources.syncing()
    }

    /// Credit that is due: half a window was applied since the last. Returns it with the queue that
    /// it goes to.
    pub fn take_credit(&mut self, id: Uuid, own_queue: &str) -> Option<(String, SnapshotCredit)> {
        self.sources.take_credit(id, own_queue)
    }

    /// Users in the cache.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.users.len()
    }

    /// Whether there are none: a valid state.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.users.len() == 0
    }

    /// Bytes that the cache takes, an estimate.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.users.memory_bytes()
    }

    /// Whether a snapshot or full sync has completed since the process began.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.stream.applied.is_some()
    }

    /// Everything up to here is applied; `None` while a snapshot is needed.
    #[must_use]
    pub fn applied(&self) -> Option<Position> {
        self.stream.applied()
    }

    /// The last position up to which everything was applied: what the cache holds is at least as new, also behind a
    /// gap or on a fresh subscription. `None` before the first snapshot has completed.
    #[must_use]
    pub fn last_applied(&self) -> Option<Position> {
        self.stream.applied
    }

    /// The last number seen on the stream, whole or not.
    #[must_use]
    pub fn seen(&self) -> Option<Position> {
        self.stream.seen
    }

    /// The last position at which the digest equalled the database's.
    #[must_use]
    pub fn proven(&self) -> Option<Position> {
        self.stream.proven
    }

    /// When server B last compared its digest with the tables themselves.
    #[must_use]
    pub fn audited_at(&self) -> Option<OffsetDateTime> {
        self.stream.audited_at
    }

    /// The last full sync that was applied to its end.
    #[must_use]
    pub fn last_sync_id(&self) -> Option<Uuid> {
        self.last_sync_id
    }

    /// Digest of what the look-up structures hold.
    #[must_use]
    pub fn digest(&self) -> UserSetDigest {
        self.users.digest()
    }
}

#[cfg(test)]
mod tests;
