//! Snapshots and full syncs, step by step.

use time::OffsetDateTime;
use wire_contract::{
    ConfigEvent, DIGEST_VERSION, Position, SnapshotAborted, SnapshotChunk, SnapshotCompleted,
    SnapshotStarted, SyncAborted, SyncCompleted, SyncStarted, UserSetDigest, UserUpdated,
};

use crate::bounds::Rule;
use crate::database::{Row, User, digest_of, record};
use crate::model::{Action, Broken, Fate, State, System, source_id};

/// A snapshot or full sync under way in server B.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Source {
    /// Names it.
    pub id: u8,
    /// The queue it goes to; `None` is the fanout exchange: a full sync.
    queue: Option<u8>,
    stage: Stage,
    /// Whether its start has been sent.
    started: bool,
    /// Another server B runs the full sync again, under another id; this run knows nothing of it.
    superseded: bool,
    /// Rows that the replica has taken since it saw the start; kept only where a rule is taken away.
    taken: (u64, UserSetDigest),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Stage {
    /// Nothing is read yet.
    Started,
    /// The spool.
    Read {
        position: Option<Position>,
        rows: Vec<(User, Row)>,
        /// Transactions seen by the read that had no number then.
        visible: Vec<i64>,
        sent: usize,
    },
}

impl Stage {
    /// The same read, sent from its first row on.
    fn begun_anew(&self) -> Option<Self> {
        let mut stage = self.clone();
        match &mut stage {
            Self::Started => None,
            Self::Read { sent, .. } => {
                *sent = 0;
                Some(stage)
            }
        }
    }
}

impl System {
    pub(crate) fn source_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let fates = self.fates(state);
        if state.replica.subscribed && Self::may_start(state) {
            actions.extend(fates.iter().map(|fate| Action::StartSnapshot(*fate)));
        }
        if state.left.syncs > 0 {
            actions.extend(fates.iter().map(|fate| Action::StartSync(*fate)));
        }
        for id in &state.interrupted {
            actions.push(Action::RestartSync(*id, [Fate::Arrives; 2]));
            if fates.contains(&Fate::Dropped) {
                actions.push(Action::RestartSync(*id, [Fate::Dropped, Fate::Arrives]));
                actions.push(Action::RestartSync(*id, [Fate::Arrives, Fate::Dropped]));
            }
        }
        for (index, source) in state.sources.iter().enumerate() {
            if state.left.cuts > 0 {
                actions.push(Action::CutSource(index));
            }
            if state.left.aborts > 0 {
                actions.extend(fates.iter().map(|fate| Action::AbortSource(index, *fate)));
            }
            if state.left.zombie_syncs > 0 && source.queue.is_none() && !source.superseded {
                actions.push(Action::ForkSync(index));
            }
            self.stage_actions(state, index, source, actions);
        }
    }

    /// A snapshot is begun when the replica needs one and none is on its way there, or by a repeated request.
    fn may_start(state: &State) -> bool {
        let queue = Some(state.replica.queue);
        let under_way = state.sources.iter().any(|source| source.queue == queue);
        state.left.extra_snapshots > 0 || (state.replica.cache.wanted().is_some() && !under_way)
    }

    fn stage_actions(
        &self,
        state: &State,
        index: usize,
        source: &Source,
        actions: &mut Vec<Action>,
    ) {
        match &source.stage {
            Stage::Started => actions.push(Action::Read(index)),
            Stage::Read { position: None, .. } => actions.push(Action::ReadPosition(index)),
            Stage::Read { rows, sent, .. } if *sent < rows.len() => {
                let fates = self.fates(state).into_iter();
                actions.extend(fates.map(|fate| Action::SendRow(index, fate)));
            }
            Stage::Read { visible, .. } => {
                let early = self.0.without == Some(Rule::ComparableFrom);
                if early || !state.database.pending(visible) {
                    let fates = self.fates(state).into_iter();
                    actions.extend(fates.map(|fate| Action::Complete(index, fate)));
                }
            }
        }
    }

    pub(crate) fn source_step(&self, state: &mut State, action: Action) {
        match action {
            Action::StartSnapshot(fate) => self.start_snapshot(state, fate),
            Action::StartSync(fate) => {
                state.left.syncs -= 1;
                state.begun += 1;
                self.start(state, state.begun, None, fate);
            }
            Action::RestartSync(id, fates) => self.restart_sync(state, id, fates),
            Action::Read(index) => self.read(state, index),
            Action::ReadPosition(index) => {
                let now = state.position();
                if let Stage::Read { position, .. } = &mut state.sources[index].stage {
                    *position = Some(now);
                }
            }
            Action::SendRow(index, fate) => self.send_row(state, index, fate),
            Action::Complete(index, fate) => self.complete(state, index, fate),
            Action::CutSource(index) => {
                state.left.cuts -= 1;
                let source = state.sources.remove(index);
                if source.queue.is_none() && !source.superseded {
                    state.interrupt(source.id);
                }
            }
            Action::AbortSource(index, fate) => {
                state.left.aborts -= 1;
                let source = state.sources.remove(index);
                state.interrupted.retain(|other| *other != source.id);
                self.send(state, source.queue, aborted(source.id, source.queue), fate);
            }
            Action::ForkSync(index) => {
                state.left.zombie_syncs -= 1;
                state.interrupt(state.sources[index].id);
            }
            _ => {}
        }
    }

    /// The run before is given up, and may go on all the same.
    fn restart_sync(&self, state: &mut State, id: u8, [end, start]: [Fate; 2]) {
        state.interrupted.retain(|other| *other != id);
        for other in state.sources.iter_mut().filter(|other| other.id == id) {
            other.superseded = true;
        }
        if self.0.without != Some(Rule::EarlierRunsAreGivenUp) {
            self.send(state, None, aborted(id, None), end);
        }
        let run = if self.0.without == Some(Rule::RunsHaveIds) {
            id
        } else {
            state.begun += 1;
            state.begun
        };
        self.start(state, run, None, start);
    }

    fn start_snapshot(&self, state: &mut State, fate: Fate) {
        let queue = Some(state.replica.queue);
        let under_way = state.sources.iter().any(|source| source.queue == queue);
        if state.replica.cache.wanted().is_none() || under_way {
            state.left.extra_snapshots -= 1;
        }
        state.begun += 1;
        if state.begun > self.0.snapshots_at_most {
            state.broken = Some(Broken::NoEndOfSnapshots);
        }
        self.start(state, state.begun, queue, fate);
    }

    fn start(&self, state: &mut State, id: u8, queue: Option<u8>, fate: Fate) {
        let late = self.0.without == Some(Rule::StartBeforeRead);
        state.sources.push(Source {
            id,
            queue,
            stage: self.first_stage(state, queue),
            started: !late,
            superseded: false,
            taken: (0, UserSetDigest::default()),
        });
        if !late {
            self.send(state, queue, started(id, queue), fate);
        }
    }

    /// A late request could have the rows of a read that is done.
    fn first_stage(&self, state: &State, queue: Option<u8>) -> Stage {
        let joins = self.0.without == Some(Rule::LateNeverJoins) && queue.is_some();
        let mut others = state.sources.iter().filter(|other| other.queue.is_some());
        match others.find_map(|other| other.stage.begun_anew()) {
            Some(read) if joins => read,
            _ => Stage::Started,
        }
    }

    fn read(&self, state: &mut State, index: usize) {
        let apart = self.0.without == Some(Rule::OneTransactionRead);
        let database = &state.database;
        state.sources[index].stage = Stage::Read {
            position: (!apart).then_some(database.relay.position),
            rows: database
                .table
                .iter()
                .map(|(user, row)| (*user, *row))
                .collect(),
            visible: database.visible(),
            sent: 0,
        };
    }

    fn send_row(&self, state: &mut State, index: usize, fate: Fate) {
        self.send_late_start(state, index);
        let source = &mut state.sources[index];
        let (id, queue) = (source.id, source.queue);
        let Stage::Read {
            position: Some(as_of),
            rows,
            sent,
            ..
        } = &mut source.stage
        else {
            return;
        };
        let (user, row) = rows[*sent];
        let event = row_event(id, queue, *as_of, user, row, *sent);
        *sent += 1;
        if self.0.without == Some(Rule::StartWasSeen) {
            self.pretend_start(state, id, queue);
        }
        if self.0.without == Some(Rule::RowsAddUp) && fate == Fate::Arrives {
            let mut digest = state.sources[index].taken.1;
            digest += digest_of([(&user, &row)]);
            let count = state.sources[index].taken.0 + 1;
            state.sources[index].taken = (count, digest);
        }
        self.send(state, queue, event, fate);
    }

    fn send_late_start(&self, state: &mut State, index: usize) {
        let source = &mut state.sources[index];
        if !source.started {
            source.started = true;
            let (id, queue) = (source.id, source.queue);
            self.send(state, queue, started(id, queue), Fate::Arrives);
        }
    }

    fn pretend_start(&self, state: &mut State, id: u8, queue: Option<u8>) {
        let own = source_id(id);
        if state
            .replica
            .cache
            .under_way()
            .all(|source| source.id != own)
        {
            self.send(state, queue, started(id, queue), Fate::Arrives);
        }
    }

    fn complete(&self, state: &mut State, index: usize, fate: Fate) {
        self.send_late_start(state, index);
        let source = state.sources.remove(index);
        state.interrupted.retain(|other| *other != source.id);
        let Stage::Read {
            position: Some(position),
            rows,
            ..
        } = &source.stage
        else {
            return;
        };
        let (count, digest) = if self.0.without == Some(Rule::RowsAddUp) {
            source.taken
        } else {
            let digest = digest_of(rows.iter().map(|(user, row)| (user, row)));
            (rows.len() as u64, digest)
        };
        let comparable_from = if self.0.without == Some(Rule::ComparableFrom) {
            position.sequence
        } else {
            state.position().sequence
        };
        let end = SnapshotCompleted {
            snapshot_id: source_id(source.id),
            position: *position,
            comparable_from,
            count,
            digest,
            digest_version: DIGEST_VERSION,
        };
        self.send(state, source.queue, completed(source.queue, end), fate);
    }

    /// To the one queue, or to all that are bound.
    fn send(&self, state: &mut State, queue: Option<u8>, event: ConfigEvent, fate: Fate) {
        if queue.is_none_or(|queue| queue == state.replica.queue) {
            state.deliver(&self.0, event, fate);
        }
    }
}

fn started(id: u8, queue: Option<u8>) -> ConfigEvent {
    if queue.is_some() {
        ConfigEvent::SnapshotStarted(SnapshotStarted {
            snapshot_id: source_id(id),
            credit_queue: String::new(),
            window: 1,
            users: None,
        })
    } else {
        ConfigEvent::SyncStarted(SyncStarted {
            sync_id: source_id(id),
        })
    }
}

fn aborted(id: u8, queue: Option<u8>) -> ConfigEvent {
    if queue.is_some() {
        ConfigEvent::SnapshotAborted(SnapshotAborted {
            snapshot_id: source_id(id),
        })
    } else {
        ConfigEvent::SyncAborted(SyncAborted {
            sync_id: source_id(id),
        })
    }
}

fn row_event(
    id: u8,
    queue: Option<u8>,
    as_of: Position,
    user: User,
    row: Row,
    index: usize,
) -> ConfigEvent {
    if queue.is_some() {
        ConfigEvent::SnapshotChunk(SnapshotChunk {
            snapshot_id: source_id(id),
            index: u32::try_from(index).unwrap_or(u32::MAX),
            as_of,
            users: vec![record(user, &row)],
        })
    } else {
        ConfigEvent::UserUpdated(UserUpdated {
            user: record(user, &row),
            epoch: as_of.epoch,
            sequence: None,
            sync_id: Some(source_id(id)),
            as_of: Some(as_of.sequence),
            occurred_at: OffsetDateTime::UNIX_EPOCH,
        })
    }
}

fn completed(queue: Option<u8>, end: SnapshotCompleted) -> ConfigEvent {
    if queue.is_some() {
        return ConfigEvent::SnapshotCompleted(end);
    }
    ConfigEvent::SyncCompleted(SyncCompleted {
        sync_id: end.snapshot_id,
        position: end.position,
        comparable_from: end.comparable_from,
        count: end.count,
        digest: end.digest,
        digest_version: end.digest_version,
    })
}
