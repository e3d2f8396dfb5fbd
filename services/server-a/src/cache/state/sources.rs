//! Snapshots and full syncs under way.

use uuid::Uuid;
use wire_contract::{
    DIGEST_VERSION, Position, SnapshotCompleted, SnapshotCredit, SyncProgress, UserSetDigest,
};

/// A snapshot or a full sync under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    id: Uuid,
    pub started: u64,
    rows: u64,
    digest: UserSetDigest,
    /// Position up to which another source, completed meanwhile, has told everything.
    pub overtaken: Option<Position>,
    /// Chunks seen and where credit goes; a full sync has none.
    chunks: Option<ChunkState>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ChunkState {
    seen: u32,
    credited: u32,
    window: u32,
    credit_queue: String,
}

impl ChunkState {
    pub fn new(window: u32, credit_queue: String) -> Self {
        Self {
            seen: 0,
            credited: 0,
            window,
            credit_queue,
        }
    }
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

/// Whether a source's rows add up to what its end tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sum {
    /// Count and digest are the same.
    Proven,
    /// The count is the same; the digest has a version that is unknown here.
    Unknown,
    /// They do not.
    Broken,
}

impl Source {
    /// A row counts whether or not it is news.
    pub fn count_row(&mut self, digest: UserSetDigest) {
        self.rows += 1;
        self.digest += digest;
    }

    pub fn count_chunk(&mut self, index: u32) {
        if let Some(chunks) = &mut self.chunks {
            chunks.seen = chunks.seen.max(index + 1);
        }
    }

    pub fn sum(&self, end: &SnapshotCompleted) -> Sum {
        let known = end.digest_version == DIGEST_VERSION;
        if self.rows != end.count || (known && self.digest != end.digest) {
            Sum::Broken
        } else if known {
            Sum::Proven
        } else {
            Sum::Unknown
        }
    }
}

/// All that are under way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sources(Vec<Source>);

impl Sources {
    /// One that begins anew forgets what it told before.
    pub fn start(&mut self, id: Uuid, clock: u64, chunks: Option<ChunkState>) {
        self.0.retain(|source| source.id != id);
        self.0.push(Source {
            id,
            started: clock,
            rows: 0,
            digest: UserSetDigest::default(),
            overtaken: None,
            chunks,
        });
    }

    pub fn get_mut(&mut self, id: Uuid) -> Option<&mut Source> {
        self.0.iter_mut().find(|source| source.id == id)
    }

    /// It is over, completed or not.
    pub fn end(&mut self, id: Uuid) -> Option<Source> {
        let index = self.0.iter().position(|source| source.id == id)?;
        Some(self.0.remove(index))
    }

    /// Another source that read at `position` has completed.
    pub fn overtake(&mut self, position: Position) {
        for source in &mut self.0 {
            source.overtaken = source.overtaken.max(Some(position));
        }
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a snapshot, `or_sync` a full sync, is under way that started after this reading of the clock.
    pub fn has_begun_since(&self, since: u64, or_sync: bool) -> bool {
        let mut sources = self.0.iter();
        sources.any(|source| (or_sync || source.chunks.is_some()) && source.started > since)
    }

    pub fn under_way(&self) -> impl Iterator<Item = SourceProgress> + '_ {
        self.0.iter().map(|source| SourceProgress {
            id: source.id,
            snapshot: source.chunks.is_some(),
            rows: source.rows,
        })
    }

    /// The full sync under way and the rows of it that were taken in.
    pub fn syncing(&self) -> Option<SyncProgress> {
        let source = self.0.iter().rfind(|source| source.chunks.is_none())?;
        Some(SyncProgress {
            sync_id: source.id,
            rows: source.rows,
        })
    }

    /// Where credit for a snapshot goes, and how many chunks it has seen.
    pub fn credit_of(&self, id: Uuid) -> Option<(String, u32)> {
        let source = self.0.iter().find(|source| source.id == id)?;
        let chunks = source.chunks.as_ref()?;
        Some((chunks.credit_queue.clone(), chunks.seen))
    }

    /// Credit that is due: half a window was applied since the last. Returns it with the queue that
    /// it goes to.
    pub fn take_credit(&mut self, id: Uuid, own_queue: &str) -> Option<(String, SnapshotCredit)> {
        let chunks = self.get_mut(id)?.chunks.as_mut()?;
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
}
