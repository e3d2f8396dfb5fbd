//! The rules of the merge by name, so that the model checker can take one away.

use super::users::Rank;

/// A rule of the merge. Only the model checker can take one away, to see that it is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Of stream events the higher (epoch, version) wins.
    HigherVersionWins,
    /// A higher epoch is newer, whatever the versions: those of a restored database begin anew.
    EpochsBeforeVersions,
    /// A number that was seen is not taken again.
    NumbersOnce,
    /// Nor one that was applied before the queue was bound.
    AppliedNumbersOnce,
    /// A row is compared with what touched its entry since its source started.
    TouchedEntriesAreCompared,
    /// A row replaces an entry that nothing touched, as it is.
    UntouchedEntriesAreReplaced,
    /// A row that was read before a completed source is not news.
    OldReadsAreNotNews,
    /// A fresh subscription knows of no source: its rows may have been lost with the queue before.
    SubscribedForgetsSources,
    /// What a source says after its end is not obeyed.
    EndedSourcesAreOver,
    /// A source that server B gave up is given up.
    AbortedSourcesAreGivenUp,
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
    /// A bookmark is compared only by a cache that stands just there.
    ComparedWhereReached,
    /// Digests that differ ask for a snapshot.
    MismatchAsks,
    /// A bookmark ahead of the stream is a gap.
    BookmarkAheadIsGap,
}

/// Which of them are in force. Takes no room in a service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Rules {
    #[cfg(feature = "model")]
    without: Option<Rule>,
}

impl Rules {
    #[cfg(feature = "model")]
    pub const fn without(rule: Rule) -> Self {
        Self {
            without: Some(rule),
        }
    }

    #[cfg(feature = "model")]
    pub fn has(self, rule: Rule) -> bool {
        self.without != Some(rule)
    }

    /// What ranks are compared by.
    pub fn order(self, rank: Rank) -> Rank {
        if self.has(Rule::EpochsBeforeVersions) {
            rank
        } else {
            (0, rank.1)
        }
    }

    #[cfg(not(feature = "model"))]
    #[expect(
        clippy::unused_self,
        reason = "only the model checker can take a rule away"
    )]
    pub const fn has(self, _: Rule) -> bool {
        true
    }
}
