//! The relay, step by step: number, publish, delete; elections, crashes and zombies.

use server_a::cache::Effect;
use server_b::relay::{bookmark_of, confirmed_prefix};
use time::OffsetDateTime;
use wire_contract::{ConfigEvent, Position, UserDeleted, UserId, UserSetDigest, UserUpdated};

use crate::bounds::Rule;
use crate::database::{Change, Numbered, Relay, Table, record};
use crate::model::{Action, Fate, Outcome, State, System};

/// A process that leads, or believes so.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Leader {
    /// Its term.
    pub term: i64,
    /// It has lost its lock.
    pub zombie: bool,
    /// It knows no better than that a backlog goes on: its bookmarks carry no digest.
    in_backlog: bool,
    /// What it is at.
    phase: Phase,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Phase {
    /// Rows of a former term may be left over.
    Replay,
    /// None was; the state is to be read.
    Adopt,
    /// Everything up to here is published and confirmed.
    Idle { published: i64 },
    /// A batch is on its way.
    Publishing(Batch),
    /// A bookmark is, and others may be faster.
    Telling { published: i64, told: Told },
}

/// What a bookmark tells.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Told {
    relay: Relay,
    /// The users of whom it tells.
    users: Table,
    compare: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Batch {
    rows: Vec<Change>,
    /// Of those that were sent, in their order.
    confirms: Vec<Result<(), ()>>,
    /// A confirm is missing.
    hole: bool,
    /// The connection died: nothing further arrives.
    cut: bool,
    /// The state after a batch that was numbered in this term; a replayed one looks again.
    then: Option<i64>,
    /// Stored when the batch is done; see [`Numbered::late`].
    late: Option<(i64, UserSetDigest)>,
    /// What got its numbers meanwhile. Nothing is checked again before it is published.
    next: Option<Box<Self>>,
}

impl Leader {
    /// One that has published everything.
    #[must_use]
    pub fn idle(term: i64, published: i64) -> Self {
        Self {
            term,
            zombie: false,
            in_backlog: false,
            phase: Phase::Idle { published },
        }
    }

    /// Whether it has published everything up to here.
    #[must_use]
    pub fn is_idle_at(&self, sequence: i64) -> bool {
        !self.zombie
            && self.phase
                == Phase::Idle {
                    published: sequence,
                }
    }

    /// The database is another one now; only what was being published goes on. Tells whether anything was.
    pub fn outlive_restore(&mut self) -> bool {
        self.zombie = true;
        // No database has such a term: the check before the next batch ends it.
        self.term = 0;
        matches!(self.phase, Phase::Publishing(_) | Phase::Telling { .. })
    }
}

impl System {
    pub(crate) fn relay_actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.leaders.iter().all(|leader| leader.zombie) {
            actions.push(Action::Elect);
        }
        for (index, leader) in state.leaders.iter().enumerate() {
            if leader.zombie || state.left.crashes > 0 {
                actions.push(Action::Crash(index));
            }
            if !leader.zombie && state.left.zombies > 0 {
                actions.push(Action::LoseLock(index));
            }
            match &leader.phase {
                Phase::Replay => actions.push(Action::Replay(index)),
                Phase::Adopt => actions.push(Action::AdoptState(index)),
                Phase::Idle { published } => {
                    if state.database.unnumbered().next().is_some() {
                        actions.push(Action::Number(index));
                    }
                    self.bookmark_actions(state, index, *published, actions);
                }
                Phase::Publishing(batch) => {
                    if self.may_number_ahead(state, leader, batch) {
                        actions.push(Action::Number(index));
                    }
                    self.publish_actions(state, index, batch, actions);
                }
                Phase::Telling { .. } => {
                    let fates = self.fates(state).into_iter();
                    actions.extend(fates.map(|fate| Action::Bookmark(index, fate)));
                }
            }
        }
    }

    /// In a backlog, one batch. Who is fenced learns it at the end of this batch as well.
    fn may_number_ahead(&self, state: &State, leader: &Leader, batch: &Batch) -> bool {
        let fenced = leader.term != state.database.relay.term;
        leader.in_backlog
            && batch.then.is_some()
            && batch.next.is_none()
            && (!fenced || self.0.without == Some(Rule::NumberingIsFenced))
    }

    /// The last bookmark comes by itself, when nothing else is to be told.
    fn bookmark_actions(
        &self,
        state: &State,
        index: usize,
        published: i64,
        actions: &mut Vec<Action>,
    ) {
        let unfenced = self.0.without == Some(Rule::BookmarkIsFenced);
        let says = published == state.position().sequence || unfenced;
        let last = state.is_quiet() && !state.replica.marked;
        if !state.replica.subscribed || !says {
            return;
        }
        if last {
            actions.push(Action::Bookmark(index, Fate::Arrives));
        } else if state.left.bookmarks > 0 {
            let fates = self.fates(state).into_iter();
            actions.extend(fates.map(|fate| Action::Bookmark(index, fate)));
            if self.0.slow_bookmarks {
                actions.push(Action::HoldBookmark(index));
            }
        }
    }

    fn publish_actions(
        &self,
        state: &State,
        index: usize,
        batch: &Batch,
        actions: &mut Vec<Action>,
    ) {
        if batch.confirms.len() < batch.rows.len() && !batch.cut {
            if !batch.hole || self.0.nacks {
                let fates = self.fates(state).into_iter();
                actions.extend(fates.map(|fate| Action::Publish(index, Outcome::Confirmed(fate))));
            }
            if state.left.losses > 0 || batch.hole {
                actions.push(Action::Publish(index, Outcome::Unconfirmed));
                actions.push(Action::Publish(index, Outcome::Lost));
            }
        } else {
            actions.push(Action::DeleteConfirmed(index));
        }
    }

    pub(crate) fn relay_step(&self, state: &mut State, action: Action) {
        match action {
            Action::Elect => self.elect(state),
            Action::Crash(index) => {
                let leader = state.leaders.remove(index);
                state.left.crashes -= u8::from(!leader.zombie);
            }
            Action::LoseLock(index) => {
                state.leaders[index].zombie = true;
                state.left.zombies -= 1;
            }
            Action::Replay(index) => self.replay(state, index),
            Action::AdoptState(index) => adopt(state, index),
            Action::Number(index) => self.number(state, index),
            Action::Publish(index, outcome) => self.publish(state, index, outcome),
            Action::DeleteConfirmed(index) => self.delete_confirmed(state, index),
            Action::HoldBookmark(index) => self.hold_bookmark(state, index),
            Action::Bookmark(index, fate) => self.send_bookmark(state, index, fate),
            _ => {}
        }
    }

    fn elect(&self, state: &mut State) {
        state.replica.marked = false;
        state.database.relay.term += 1;
        if state.database.unnoticed_restore && !self.0.silent_restore {
            let epoch = state.position().epoch + 1;
            if self.0.without == Some(Rule::RestoreBeginsEpoch) {
                state.database.unnoticed_restore = false;
            } else {
                state.database.begin_epoch(epoch, self.0.users);
            }
        }
        if self.0.without == Some(Rule::NumbersAreKept) {
            state.database.forget_numbers();
        }
        let phase = if self.0.without == Some(Rule::Republish) {
            Phase::Adopt
        } else {
            Phase::Replay
        };
        state.leaders.push(Leader {
            term: state.database.relay.term,
            zombie: false,
            in_backlog: self.0.without != Some(Rule::NewLeaderAssumesABacklog),
            phase,
        });
    }

    fn replay(&self, state: &mut State, index: usize) {
        let rows: Vec<Change> = state.database.with_numbers();
        if rows.is_empty() {
            state.leaders[index].phase = Phase::Adopt;
            // Only another leader's numbering could come between.
            if state.leaders.len() == 1 {
                adopt(state, index);
            }
            return;
        }
        let rows = rows.into_iter().take(self.0.batch).collect();
        state.leaders[index].phase = Phase::Publishing(Batch::new(rows, None, None));
    }

    fn number(&self, state: &mut State, index: usize) {
        let fenced = state.leaders[index].term != state.database.relay.term;
        if fenced && self.0.without != Some(Rule::NumberingIsFenced) {
            state.leaders.remove(index);
            return;
        }
        // In the middle of a batch only.
        if state.database.unnumbered().next().is_none() {
            state.leaders[index].in_backlog = false;
            return;
        }
        let Numbered {
            rows,
            left_nothing,
            late,
        } = state.database.number(self.0.batch, self.0.without);
        let then = state.position().sequence;
        state.replica.marked = false;
        state.leaders[index].in_backlog = !left_nothing;
        let numbered = Batch::new(rows, Some(then), late);
        match &mut state.leaders[index].phase {
            Phase::Publishing(batch) => batch.next = Some(Box::new(numbered)),
            phase => *phase = Phase::Publishing(numbered),
        }
    }

    fn publish(&self, state: &mut State, index: usize, outcome: Outcome) {
        let Phase::Publishing(batch) = &mut state.leaders[index].phase else {
            return;
        };
        let event = event(&batch.rows[batch.confirms.len()]);
        let confirmed = matches!(outcome, Outcome::Confirmed(_));
        if !confirmed && !batch.hole {
            batch.hole = true;
            state.left.losses -= 1;
        }
        batch
            .confirms
            .push(if confirmed { Ok(()) } else { Err(()) });
        batch.cut |= outcome == Outcome::Lost && !self.0.nacks;
        match outcome {
            Outcome::Confirmed(fate) => self.deliver_change(state, event, fate),
            Outcome::Unconfirmed => self.deliver_change(state, event, Fate::Arrives),
            Outcome::Lost => {}
        }
    }

    /// Without the rule on gaps, a message that was dropped leaves its number behind.
    fn deliver_change(&self, state: &mut State, event: ConfigEvent, fate: Fate) {
        if fate == Fate::Dropped && self.0.without == Some(Rule::GapIsNoticed) {
            state.left.overflows -= 1;
            state.deliver(&self.0, nothing_at(&event), Fate::Arrives);
            return;
        }
        state.deliver(&self.0, event, fate);
    }

    fn delete_confirmed(&self, state: &mut State, index: usize) {
        let Phase::Publishing(batch) = &state.leaders[index].phase else {
            return;
        };
        let by_id_alone = self.0.without == Some(Rule::DeleteNamesTheNumber);
        let gone: Vec<(i64, Option<Position>)> = self
            .deletable(batch)
            .map(|row| (row.id, row.position))
            .collect();
        if let Some((count, digest)) = batch.late {
            state.database.relay.count = count;
            state.database.relay.digest = digest;
        }
        let (hole, then, next) = (batch.hole, batch.then, batch.next.clone());
        state.database.outbox.retain(|change| {
            gone.iter().all(|(id, position)| {
                change.id != *id || !(by_id_alone || change.position == *position)
            })
        });
        if hole {
            state.leaders.remove(index);
            return;
        }
        state.leaders[index].phase = match (next, then) {
            (Some(next), _) => Phase::Publishing(*next),
            (None, Some(published)) => Phase::Idle { published },
            (None, None) => Phase::Replay,
        };
    }

    fn deletable<'a>(&self, batch: &'a Batch) -> Box<dyn Iterator<Item = &'a Change> + 'a> {
        match self.0.without {
            Some(Rule::DeleteOnlyConfirmed) => Box::new(batch.rows.iter()),
            _ => Box::new(batch.rows[..confirmed_prefix(&batch.confirms)].iter()),
        }
    }

    fn hold_bookmark(&self, state: &mut State, index: usize) {
        state.left.bookmarks -= 1;
        let Phase::Idle { published } = state.leaders[index].phase else {
            return;
        };
        if let Some(told) = self.read_bookmark(state, index) {
            state.leaders[index].phase = Phase::Telling { published, told };
        }
    }

    fn send_bookmark(&self, state: &mut State, index: usize, fate: Fate) {
        let last = state.is_quiet();
        let leader = &mut state.leaders[index];
        let told = if let Phase::Telling { published, told } = &leader.phase {
            let (published, told) = (*published, told.clone());
            leader.phase = Phase::Idle { published };
            Some(told)
        } else {
            state.left.bookmarks -= u8::from(!last);
            self.read_bookmark(state, index)
        };
        let Some(told) = told else {
            return;
        };
        let bookmark = ConfigEvent::Bookmark(bookmark_of(&told.relay.state(), !told.compare));
        let effect = state.deliver(&self.0, bookmark, fate);
        if effect == Some(Effect::Proven) {
            state.check_proof(&told.users, self.0.keys);
        }
        state.replica.marked = last && fate == Fate::Arrives;
    }

    /// What a bookmark would tell now; `None` from a leader whose term is over, which ends here. One that is not to be
    /// compared says so by its version.
    fn read_bookmark(&self, state: &mut State, index: usize) -> Option<Told> {
        let leader = &state.leaders[index];
        let fenced = leader.term != state.database.relay.term;
        if fenced && self.0.without != Some(Rule::BookmarkIsFenced) {
            state.leaders.remove(index);
            return None;
        }
        // But for its first bookmark it has looked for rows just before.
        let in_backlog = leader.in_backlog && state.database.unnumbered().next().is_some();
        state.leaders[index].in_backlog = in_backlog;
        Some(Told {
            relay: state.database.relay,
            users: state.database.numbered.clone(),
            compare: !in_backlog || self.0.without == Some(Rule::NoDigestInBacklog),
        })
    }
}

impl Batch {
    fn new(rows: Vec<Change>, then: Option<i64>, late: Option<(i64, UserSetDigest)>) -> Self {
        Self {
            rows,
            confirms: Vec::new(),
            hole: false,
            cut: false,
            then,
            late,
            next: None,
        }
    }
}

fn adopt(state: &mut State, index: usize) {
    state.leaders[index].phase = Phase::Idle {
        published: state.position().sequence,
    };
}

/// A numbered row as the relay publishes it.
fn event(change: &Change) -> ConfigEvent {
    let position = change.position.unwrap_or_default();
    match &change.new {
        Some(row) => ConfigEvent::UserUpdated(UserUpdated {
            user: record(change.user, row),
            epoch: position.epoch,
            sequence: Some(position.sequence),
            sync_id: None,
            as_of: None,
            occurred_at: OffsetDateTime::UNIX_EPOCH,
        }),
        None => ConfigEvent::UserDeleted(UserDeleted {
            user_id: UserId::from(change.user),
            api_key: None,
            version: change.version,
            epoch: position.epoch,
            sequence: position.sequence,
            occurred_at: OffsetDateTime::UNIX_EPOCH,
        }),
    }
}

/// An event with the same number that changes nothing.
fn nothing_at(event: &ConfigEvent) -> ConfigEvent {
    let (epoch, sequence) = match event {
        ConfigEvent::UserUpdated(event) => (event.epoch, event.sequence.unwrap_or(0)),
        ConfigEvent::UserDeleted(event) => (event.epoch, event.sequence),
        _ => (0, 0),
    };
    ConfigEvent::UserDeleted(UserDeleted {
        user_id: UserId::MAX,
        api_key: None,
        version: 0,
        epoch,
        sequence,
        occurred_at: OffsetDateTime::UNIX_EPOCH,
    })
}
