//! Where the stream stands: what was seen of it, what is applied, what is proven, and what is missing.

use time::OffsetDateTime;
use wire_contract::{
    Bookmark, DIGEST_VERSION, Position, SnapshotCause, SnapshotCompleted, UserSetDigest,
};

use super::Effect;
use super::rule::{Rule, Rules};

/// Of this subscription, but for `applied` and what was proven.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Stream {
    /// First and last number seen on this subscription's stream.
    first_seen: Option<Position>,
    pub seen: Option<Position>,
    /// Everything up to here was applied at one time; set by the first completed source.
    pub applied: Option<Position>,
    /// And nothing is missing since.
    whole: bool,
    comparable_from: Option<Position>,
    pub proven: Option<Position>,
    pub audited_at: Option<OffsetDateTime>,
    /// A snapshot is needed that starts after this reading of the clock.
    pub need: Option<(SnapshotCause, u64)>,
    pub rules: Rules,
}

impl Stream {
    /// A fresh queue is bound: anything may have been missed before it.
    pub fn begin(&mut self, clock: u64) {
        self.first_seen = None;
        self.seen = None;
        self.whole = false;
        self.comparable_from = None;
        self.ask(SnapshotCause::Connected, clock);
    }

    /// Everything up to here is applied; `None` while something is missing.
    pub fn applied(&self) -> Option<Position> {
        self.applied.filter(|_| self.whole)
    }

    /// Follows the numbers of the stream. A gap is noted; the event itself is still good.
    pub fn advance(&mut self, position: Position, clock: u64) -> Effect {
        let Some(seen) = self.seen else {
            // A relay that lost its lock may publish late, and what was deleted since has left no tombstone.
            if Some(position) <= self.applied && self.rules.has(Rule::AppliedNumbersOnce) {
                return Effect::Duplicate;
            }
            self.first_seen = Some(position);
            self.seen = Some(position);
            return Effect::Applied;
        };
        if position.epoch < seen.epoch {
            return Effect::OldEpoch;
        }
        if position <= seen && self.rules.has(Rule::NumbersOnce) {
            return Effect::Duplicate;
        }
        self.seen = Some(position);
        if position.epoch > seen.epoch || position.sequence > seen.sequence + 1 {
            self.gap(clock);
            return Effect::Gap;
        }
        if self.whole {
            self.applied = self.seen;
        }
        Effect::Applied
    }

    /// What has been seen no longer adds up to everything: only a snapshot that starts later does.
    fn gap(&mut self, clock: u64) {
        self.whole = false;
        self.first_seen = self.seen;
        self.ask(SnapshotCause::Gap, clock);
    }

    pub fn ask(&mut self, cause: SnapshotCause, clock: u64) {
        self.need = Some((cause, clock));
    }

    /// After a source that started after the last gap, everything up to its position is applied, and
    /// everything that the stream carried since.
    pub fn settle(&mut self, source_started: u64, end: &SnapshotCompleted, clock: u64) {
        if self.rules.has(Rule::SourceAfterGap)
            && self.need.is_some_and(|(_, since)| source_started <= since)
        {
            return;
        }
        if !self.joins(end.position) && self.rules.has(Rule::StreamJoinsSource) {
            self.ask(SnapshotCause::Gap, clock);
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

    /// Whether no number is missing between what a source has read and what the stream has brought.
    fn joins(&self, read: Position) -> bool {
        self.first_seen.is_none_or(|first| {
            first.epoch < read.epoch
                || (first.epoch == read.epoch && first.sequence <= read.sequence + 1)
        })
    }

    /// Compares the cache (`held`: its digest and count; `None` while a source is under way) with the database's.
    pub fn compare(
        &mut self,
        bookmark: &Bookmark,
        held: Option<(UserSetDigest, u64)>,
        clock: u64,
    ) -> Effect {
        self.audited_at = bookmark.audited_at.or(self.audited_at);
        if self
            .seen
            .is_some_and(|seen| bookmark.position.epoch < seen.epoch)
        {
            return Effect::OldEpoch;
        }
        if self.seen.is_some_and(|seen| bookmark.position > seen)
            && self.rules.has(Rule::BookmarkAheadIsGap)
        {
            self.seen = Some(bookmark.position);
            self.gap(clock);
            return Effect::Gap;
        }
        let (true, Some(held)) = (self.is_comparable(bookmark), held) else {
            return Effect::NotComparable;
        };
        if held == (bookmark.digest, bookmark.count) {
            self.proven = Some(bookmark.position);
            return Effect::Proven;
        }
        self.proven = None;
        if self.need.is_none() && self.rules.has(Rule::MismatchAsks) {
            self.ask(SnapshotCause::Mismatch, clock);
        }
        Effect::Mismatch
    }

    fn is_comparable(&self, bookmark: &Bookmark) -> bool {
        // Rows of a source that was given up may be ahead of the stream.
        (self.need.is_none() || !self.rules.has(Rule::NoProofInNeed))
            && (self.applied() == Some(bookmark.position)
                || !self.rules.has(Rule::ComparedWhereReached))
            && self
                .comparable_from
                .is_none_or(|from| from <= bookmark.position)
            && bookmark.digest_version == DIGEST_VERSION
    }
}
