//! How far a run explores, and which rule of the design it does without.

/// What may happen in a run, and how often. A count of 0 means never.
#[derive(Debug, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fault that is there or not"
)]
pub struct Bounds {
    /// Users that exist at the beginning, each with a key of its own, numbered and published.
    pub users_before: u8,
    /// Users there can ever be.
    pub users: u8,
    /// Keys there can ever be.
    pub keys: u8,
    /// Whether the replica starts with all of it applied; otherwise it has never connected.
    pub synced_before: bool,
    /// Transactions on users.
    pub writes: u8,
    /// Whether a transaction may stay open while others commit.
    pub open_transactions: bool,
    /// Whether a statement may change a user twice, by a trigger inside it.
    pub nested_writes: bool,
    /// Rows numbered in a batch.
    pub batch: usize,
    /// Times the backlog is coalesced by SQL, as without a broker.
    pub coalesces: u8,
    /// Relay processes that die.
    pub crashes: u8,
    /// Leaders that lose their lock without noticing.
    pub zombies: u8,
    /// Publishes whose confirm does not come, whether the message arrived or not.
    pub losses: u8,
    /// Whether the broker may lose a message of a batch and take a later one.
    pub nacks: bool,
    /// Messages dropped from the replica's queue.
    pub overflows: u8,
    /// Subscriptions lost.
    pub disconnects: u8,
    /// Snapshots sent that nobody needs (requests are repeated).
    pub extra_snapshots: u8,
    /// Full syncs.
    pub syncs: u8,
    /// Snapshots and full syncs cut by the death of their sender.
    pub cuts: u8,
    /// Snapshots and full syncs that server B gives up, and says so.
    pub aborts: u8,
    /// Full syncs whose runner has lost its lock without noticing, and goes on while another runs the sync again.
    pub zombie_syncs: u8,
    /// Whether a replica gives up a source whose sender is gone without a word. It takes minutes.
    pub time_out: bool,
    /// Live snapshots that the replica gives up.
    pub impatience: u8,
    /// Bookmarks between; the last one comes by itself.
    pub bookmarks: u8,
    /// Whether one of these may be long on its way, while others number, publish and read.
    pub slow_bookmarks: bool,
    /// Restores of the database to an older state.
    pub restores: u8,
    /// Whether only a replica's report tells of the restore: the database names the history that it had before.
    pub silent_restore: bool,
    /// Snapshots after which a replica that is still not converged never will be.
    pub snapshots_at_most: u8,
    /// The rule that this run does without.
    pub without: Option<Rule>,
    /// The rule of the merge that this run does without.
    #[cfg(feature = "rules")]
    pub cache_without: Option<server_a::cache::Rule>,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            users_before: 1,
            users: 2,
            keys: 2,
            synced_before: false,
            writes: 2,
            open_transactions: false,
            nested_writes: false,
            batch: 8,
            coalesces: 0,
            crashes: 0,
            zombies: 0,
            losses: 0,
            nacks: false,
            overflows: 0,
            disconnects: 0,
            extra_snapshots: 0,
            syncs: 0,
            cuts: 0,
            aborts: 0,
            zombie_syncs: 0,
            time_out: true,
            impatience: 0,
            bookmarks: 0,
            slow_bookmarks: false,
            restores: 0,
            silent_restore: false,
            snapshots_at_most: 6,
            without: None,
            #[cfg(feature = "rules")]
            cache_without: None,
        }
    }
}

/// A rule around the merge that a test takes away, to see that it is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Numbering checks the leader's term.
    NumberingIsFenced,
    /// A bookmark is sent only by the leader of the term.
    BookmarkIsFenced,
    /// A new leader publishes again what was numbered, under the same numbers.
    Republish,
    /// Numbers are given once, and never again to something else.
    NumbersAreKept,
    /// Numbers are given to what is committed, in the order in which the relay finds it: not drawn by the writers.
    NumbersFollowCommits,
    /// Count and digest are stored with the numbers, in one transaction.
    DigestWithNumbers,
    /// Only confirmed rows are deleted.
    DeleteOnlyConfirmed,
    /// Deleting a published row names its number, not only its identity.
    DeleteNamesTheNumber,
    /// The newest change of a user is told by its version, not by its identity.
    CoalescingFollowsVersions,
    /// A coalesced row keeps the image before the first change.
    CoalescingKeepsOldImage,
    /// A coalesced row keeps the transaction of the first change.
    CoalescingKeepsTransaction,
    /// `started` is confirmed before the read.
    StartBeforeRead,
    /// A request never joins a read that has begun.
    LateNeverJoins,
    /// Position and rows come from one transaction.
    OneTransactionRead,
    /// The digest is compared only from the number that covers all that the read has seen.
    ComparableFrom,
    /// A bookmark in the middle of a backlog tells where the stream stands, but no digest to compare.
    NoDigestInBacklog,
    /// A new leader does not know where a batch ended, and tells no digest before it has found the end of the backlog.
    NewLeaderAssumesABacklog,
    /// A missing number is noticed.
    GapIsNoticed,
    /// Rows are obeyed only of sources whose start was seen.
    StartWasSeen,
    /// A source whose rows do not add up sweeps nothing.
    RowsAddUp,
    /// A source that died is given up.
    DeadSourceIsGivenUp,
    /// Each run of a full sync has an id of its own.
    RunsHaveIds,
    /// Whoever runs a full sync again gives the run before up.
    EarlierRunsAreGivenUp,
    /// A report tells the last number seen, not only what is applied.
    ReportTellsWhatWasSeen,
    /// A restore begins a new epoch.
    RestoreBeginsEpoch,
}
