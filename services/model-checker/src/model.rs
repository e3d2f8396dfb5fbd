//! The state of the whole system, what can happen in it, and what must hold.

use server_a::cache::{CacheState, Effect};
use stateright::{Model, Property};
use uuid::Uuid;
use wire_contract::{ConfigEvent, Position, UserId};

use crate::bounds::{Bounds, Rule};
use crate::database::{Database, Key, Table, User, Write};
use crate::relay::Leader;
use crate::replica::{Replica, holder};
use crate::source::Source;

/// The whole system.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct State {
    /// Server B's tables.
    pub database: Database,
    /// A base backup.
    pub backup: Option<Box<Database>>,
    /// Relay processes that lead, or believe so.
    pub leaders: Vec<Leader>,
    /// Snapshots and full syncs under way in server B.
    pub sources: Vec<Source>,
    /// Full syncs, by their runs, whose runner died or seems to have; the next server B runs them again.
    pub interrupted: Vec<u8>,
    /// Sources ever begun.
    pub begun: u8,
    /// The replica. One is enough: replicas do not act on each other.
    pub replica: Replica,
    /// What may still happen.
    pub left: Left,
    /// The first thing that must not happen, if it did.
    pub broken: Option<Broken>,
}

/// How often things may still happen; see [`Bounds`].
#[expect(missing_docs, reason = "named as the bounds")]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Left {
    pub writes: u8,
    pub coalesces: u8,
    pub crashes: u8,
    pub zombies: u8,
    pub losses: u8,
    pub overflows: u8,
    pub disconnects: u8,
    pub extra_snapshots: u8,
    pub syncs: u8,
    pub cuts: u8,
    pub aborts: u8,
    pub zombie_syncs: u8,
    pub impatience: u8,
    pub bookmarks: u8,
    pub restores: u8,
}

/// What must not happen in any step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Broken {
    /// A source took a key away that is good.
    ValidSwept,
    /// The replica proved what is not so.
    WrongProof,
    /// Digests differed though nothing was changed behind the triggers.
    FalseMismatch,
    /// A replica in step saw a gap though its queue lost nothing.
    FalseGap,
    /// The replica goes on asking for snapshots.
    NoEndOfSnapshots,
}

/// Whether a message gets to the replica's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fate {
    /// It does.
    Arrives,
    /// The full queue drops it.
    Dropped,
}

/// What a publisher learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The broker took it and said so.
    Confirmed(Fate),
    /// The broker took it, the confirm was lost.
    Unconfirmed,
    /// The broker never had it.
    Lost,
}

/// What must hold in every state.
pub mod property {
    /// Equal digests prove equality.
    pub const PROOF: &str = "a proven replica equals the database";
    /// A deleted or superseded key is not accepted, and a good one is, from the position on that the replica tells.
    pub const IN_FORCE: &str = "what is applied is in force";
    /// The whole cache, where nothing is under way.
    pub const EQUAL: &str = "all applied means equal";
    /// At the end of a snapshot or full sync.
    pub const SWEEP: &str = "nothing valid is swept";
    /// No alarm without a cause.
    pub const MISMATCH: &str = "digests differ only after drift";
    /// No snapshot without a cause.
    pub const GAP: &str = "a gap is seen only if something was lost";
    /// Count and digest of the relay's row.
    pub const DIGEST: &str = "the relay's digest is that of the users";
    /// Proven, and equal.
    pub const CONVERGES: &str = "it converges once faults stop";
}

/// What a run must be able to reach, or its bounds explore nothing.
pub const REACHED: &str = "the replica proves all writes";

/// A step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is described where it is done")]
pub enum Action {
    Write(Write),
    OpenWrite(Write),
    Commit,
    Coalesce,
    Elect,
    Crash(usize),
    LoseLock(usize),
    /// Looks for numbered rows, and at the state if there are none.
    Replay(usize),
    AdoptState(usize),
    Number(usize),
    Publish(usize, Outcome),
    DeleteConfirmed(usize),
    /// Reads what a bookmark tells, which is then long on its way.
    HoldBookmark(usize),
    Bookmark(usize, Fate),
    StartSnapshot(Fate),
    StartSync(Fate),
    /// The run with this id is given up, and another begins.
    RestartSync(u8, [Fate; 2]),
    Read(usize),
    ReadPosition(usize),
    SendRow(usize, Fate),
    Complete(usize, Fate),
    CutSource(usize),
    AbortSource(usize, Fate),
    ForkSync(usize),
    Disconnect,
    Subscribe,
    Abandon(u8),
    Backup,
    Restore,
    Report,
}

/// The model: a system within bounds.
#[derive(Debug, Clone)]
pub struct System(pub Bounds);

impl State {
    /// Where the relay's numbering stands.
    #[must_use]
    pub fn position(&self) -> Position {
        self.database.relay.position
    }

    /// Hands a message to the replica's queue, and the replica takes it: what it did, if it came there.
    pub fn deliver(&mut self, bounds: &Bounds, event: ConfigEvent, fate: Fate) -> Option<Effect> {
        if !self.replica.subscribed {
            return None;
        }
        if fate == Fate::Dropped {
            self.left.overflows -= 1;
            return None;
        }
        let in_step = self.replica.cache.applied().is_some();
        let good = self.good_keys(bounds.keys);
        let ends_in = end_of(&event).map(|position| position.epoch);
        let effect = self.replica.apply(event);
        self.replica.marked = false;
        // Nothing but the sweep happens at the end of a source.
        if effect == Effect::SourceCompleted
            // What was read before a restore tells of a history that was lost.
            && ends_in == Some(self.position().epoch)
            && good.iter().any(|key| self.is_refused(*key))
        {
            self.fail(Broken::ValidSwept);
        }
        match effect {
            Effect::Mismatch if !bounds.silent_restore => self.fail(Broken::FalseMismatch),
            Effect::Gap
                if in_step && bounds.overflows == 0 && !bounds.nacks && bounds.restores == 0 =>
            {
                self.fail(Broken::FalseGap);
            }
            _ => {}
        }
        Some(effect)
    }

    /// What was proven just now must be so: `users` are those of whom the bookmark told.
    pub fn check_proof(&mut self, users: &Table, keys: u8) {
        if !self.database.unnoticed_restore && !self.replica.equals(users, keys) {
            self.fail(Broken::WrongProof);
        }
    }

    /// Keys that the replica lets in, and rightly: it has seen their users' last changes.
    fn good_keys(&self, keys: u8) -> Vec<Key> {
        let seen = self.replica.cache.seen().unwrap_or_default();
        (1..=keys)
            .filter(|key| {
                holder(&self.database.table, *key).is_some_and(|user| {
                    self.replica.who(*key) == Some(UserId::from(user))
                        && self.database.is_settled(user, seen)
                })
            })
            .collect()
    }

    fn is_refused(&self, key: Key) -> bool {
        !self.database.unnoticed_restore && self.replica.who(key).is_none()
    }

    /// A full sync is to be run again.
    pub fn interrupt(&mut self, id: u8) {
        if !self.interrupted.contains(&id) {
            self.interrupted.push(id);
        }
    }

    fn fail(&mut self, broken: Broken) {
        self.broken = self.broken.or(Some(broken));
    }

    /// Whether faults have stopped and all is told, but perhaps for the last bookmark.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        !self.database.is_open()
            && self.database.outbox.is_empty()
            && self.leads_idle()
            && self.sources.is_empty()
            && self.interrupted.is_empty()
            && self.replica.subscribed
            && self.replica.cache.wanted().is_none()
            && self.dead_source().is_none()
            && self.ahead(None).is_none()
    }

    fn leads_idle(&self) -> bool {
        self.leaders.len() == 1 && self.leaders[0].is_idle_at(self.position().sequence)
    }

    /// A snapshot that the replica waits for and nobody sends.
    #[must_use]
    pub fn dead_source(&self) -> Option<u8> {
        self.replica
            .cache
            .under_way()
            .map(|source| source.id)
            .filter_map(number_of)
            .find(|id| {
                self.sources.iter().all(|source| source.id != *id) && !self.interrupted.contains(id)
            })
    }

    /// The position that the replica's report tells, where that is ahead of the database.
    #[must_use]
    pub fn ahead(&self, without: Option<Rule>) -> Option<Position> {
        let cache = &self.replica.cache;
        let told = if without == Some(Rule::ReportTellsWhatWasSeen) {
            cache.applied()
        } else {
            cache.seen()
        };
        told.filter(|told| *told > self.position())
    }

    /// Whether the replica equals the database and has proven it.
    #[must_use]
    pub fn is_converged(&self, keys: u8) -> bool {
        self.replica.cache.proven() == Some(self.position())
            && self.replica.cache.applied() == Some(self.position())
            && self.replica.equals(&self.database.table, keys)
    }
}

fn end_of(event: &ConfigEvent) -> Option<Position> {
    match event {
        ConfigEvent::SnapshotCompleted(end) => Some(end.position),
        ConfigEvent::SyncCompleted(end) => Some(end.position),
        _ => None,
    }
}

/// The id of the source with this number.
#[must_use]
pub fn source_id(number: u8) -> Uuid {
    Uuid::from_u128(u128::from(number))
}

fn number_of(id: Uuid) -> Option<u8> {
    u8::try_from(id.as_u128()).ok()
}

impl Model for System {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.first_state()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken.is_some() {
            return;
        }
        self.database_actions(state, actions);
        self.relay_actions(state, actions);
        self.source_actions(state, actions);
        self.replica_actions(state, actions);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let bounds = &self.0;
        match action {
            Action::Write(write) => {
                let transaction = state.database.write(write);
                state.database.commit(Some(transaction));
                state.left.writes -= 1;
            }
            Action::OpenWrite(write) => {
                state.database.write(write);
                state.left.writes -= 1;
            }
            Action::Commit => state.database.commit(None),
            Action::Coalesce => {
                state.database.coalesce(bounds.without);
                state.left.coalesces -= 1;
            }
            Action::Elect
            | Action::Crash(_)
            | Action::LoseLock(_)
            | Action::Replay(_)
            | Action::AdoptState(_)
            | Action::Number(_)
            | Action::Publish(..)
            | Action::DeleteConfirmed(_)
            | Action::HoldBookmark(_)
            | Action::Bookmark(..) => self.relay_step(&mut state, action),
            Action::StartSnapshot(_)
            | Action::StartSync(_)
            | Action::RestartSync(..)
            | Action::Read(_)
            | Action::ReadPosition(_)
            | Action::SendRow(..)
            | Action::Complete(..)
            | Action::CutSource(_)
            | Action::AbortSource(..)
            | Action::ForkSync(_) => self.source_step(&mut state, action),
            Action::Disconnect => {
                state.left.disconnects -= 1;
                state.replica.subscribed = false;
                state.replica.marked = false;
            }
            Action::Subscribe => state.replica.subscribe(),
            Action::Abandon(id) => {
                if state.dead_source() != Some(id) {
                    state.left.impatience -= 1;
                }
                state.replica.change(|cache| cache.abandon(source_id(id)));
                state.replica.marked = false;
            }
            Action::Backup => {
                state.left.restores -= 1;
                state.backup = Some(Box::new(state.database.clone()));
            }
            Action::Restore => Self::restore(&mut state),
            Action::Report => {
                let ahead = state.ahead(bounds.without)?;
                if bounds.without == Some(Rule::RestoreBeginsEpoch) {
                    return None;
                }
                state.database.begin_epoch(ahead.epoch + 1, bounds.users);
                state.replica.marked = false;
            }
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(property::PROOF, |_, state: &State| {
                state.broken != Some(Broken::WrongProof)
            }),
            Property::always(property::IN_FORCE, |model: &Self, state: &State| {
                model.is_in_force(state)
            }),
            Property::always(property::EQUAL, |model: &Self, state: &State| {
                model.is_equal_when_all_is_applied(state)
            }),
            Property::always(property::SWEEP, |_, state: &State| {
                state.broken != Some(Broken::ValidSwept)
            }),
            Property::always(property::MISMATCH, |_, state: &State| {
                state.broken != Some(Broken::FalseMismatch)
            }),
            Property::always(property::GAP, |_, state: &State| {
                state.broken != Some(Broken::FalseGap)
            }),
            Property::always(property::DIGEST, |_, state: &State| {
                state.database.folds_what_it_numbers()
            }),
            Property::always(property::CONVERGES, |model: &Self, state: &State| {
                model.converges(state)
            }),
            Property::sometimes(REACHED, |model: &Self, state: &State| {
                state.left.writes == 0 && state.is_quiet() && state.is_converged(model.0.keys)
            }),
        ]
    }
}

impl System {
    fn first_state(&self) -> State {
        let bounds = &self.0;
        let cache = CacheState::new();
        #[cfg(feature = "rules")]
        let cache = match bounds.cache_without {
            Some(rule) => cache.without(rule),
            None => cache,
        };
        let mut state = State {
            database: Database::new(bounds.users_before),
            backup: None,
            leaders: Vec::new(),
            sources: Vec::new(),
            interrupted: Vec::new(),
            begun: 0,
            replica: Replica::new(cache),
            left: Left::of(bounds),
            broken: None,
        };
        state.database.relay.term = 1;
        state
            .leaders
            .push(Leader::idle(1, state.position().sequence));
        if bounds.synced_before {
            self.sync_at_once(&mut state);
        }
        state
    }

    fn sync_at_once(&self, state: &mut State) {
        let steps = [
            Action::Subscribe,
            Action::StartSnapshot(Fate::Arrives),
            Action::Read(0),
        ]
        .into_iter()
        .chain((0..self.0.users_before).map(|_| Action::SendRow(0, Fate::Arrives)))
        .chain([Action::Complete(0, Fate::Arrives)]);
        for step in steps {
            if let Some(next) = self.next_state(state, step) {
                *state = next;
            }
        }
        state.begun = 0;
        state.replica.queue = 1;
    }

    fn database_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let database = &state.database;
        if state.left.writes > 0 {
            for write in self.writes(database) {
                actions.push(Action::Write(write));
                if self.0.open_transactions && !database.is_open() {
                    actions.push(Action::OpenWrite(write));
                }
            }
        }
        if database.is_open() {
            actions.push(Action::Commit);
        }
        if state.left.coalesces > 0 && database.unnumbered().count() > 1 {
            actions.push(Action::Coalesce);
        }
        if state.left.restores > 0 && state.backup.is_none() && !database.is_open() {
            actions.push(Action::Backup);
        }
        if state.backup.is_some() {
            actions.push(Action::Restore);
        }
    }

    /// What a transaction can do now: rows that another has locked, and keys that it took or frees, are not to
    /// be had. Of users that never were, the next stands for all.
    fn writes(&self, database: &Database) -> Vec<Write> {
        let locked: Vec<User> = database
            .outbox
            .iter()
            .filter(|change| change.open)
            .map(|change| change.user)
            .collect();
        let free = self.free_keys(database);
        let mut writes = Vec::new();
        let next = database.created + 1;
        if next <= self.0.users && !locked.contains(&next) {
            writes.extend(free.iter().map(|key| Write::Create(next, *key)));
        }
        let users: Vec<User> = database
            .table
            .keys()
            .copied()
            .filter(|user| !locked.contains(user))
            .collect();
        for user in &users {
            writes.push(Write::Delete(*user));
            writes.extend(free.iter().map(|key| Write::Rekey(*user, *key)));
            if self.0.nested_writes {
                writes.extend(free.iter().map(|key| Write::Nested(*user, *key)));
            }
            if database.table[user].key.is_some() {
                let others = users.iter().filter(|other| *other != user);
                writes.extend(others.map(|other| Write::Move(*user, *other)));
            }
        }
        writes
    }

    fn free_keys(&self, database: &Database) -> Vec<Key> {
        let open = database.outbox.iter().filter(|change| change.open);
        let taken: Vec<Key> = open
            .flat_map(|change| [change.old, change.new])
            .flatten()
            .chain(database.table.values().copied())
            .filter_map(|row| row.key)
            .collect();
        (1..=self.0.keys)
            .filter(|key| !taken.contains(key))
            .collect()
    }

    fn replica_actions(&self, state: &State, actions: &mut Vec<Action>) {
        if !state.replica.subscribed {
            actions.push(Action::Subscribe);
            return;
        }
        if state.left.disconnects > 0 {
            actions.push(Action::Disconnect);
        }
        if self.0.time_out
            && self.0.without != Some(Rule::DeadSourceIsGivenUp)
            && let Some(id) = state.dead_source()
        {
            actions.push(Action::Abandon(id));
        }
        if state.left.impatience > 0 {
            let live = state
                .replica
                .cache
                .under_way()
                .filter(|source| source.snapshot);
            actions.extend(live.filter_map(|source| Some(Action::Abandon(number_of(source.id)?))));
        }
        if state.ahead(self.0.without).is_some() {
            actions.push(Action::Report);
        }
    }

    /// The database comes back as it was at the backup; whoever talks to it loses the lock.
    fn restore(state: &mut State) {
        let Some(backup) = state.backup.take() else {
            return;
        };
        state.database = *backup;
        state.leaders.retain_mut(Leader::outlive_restore);
        state.replica.marked = false;
        state.database.unnoticed_restore = true;
        state.left.restores = 0;
    }

    /// For each user whose last change is applied, and who has none under way: its key lets it in, no other does. Also on a
    /// fresh subscription, on which the replica serves from what it had.
    fn is_in_force(&self, state: &State) -> bool {
        let Some(applied) = state.replica.cache.last_applied() else {
            return true;
        };
        let database = &state.database;
        state.database.unnoticed_restore
            || (1..=self.0.users).all(|user| {
                !database.is_settled(user, applied)
                    || (1..=self.0.keys).all(|key| {
                        let own = database.table.get(&user).and_then(|row| row.key) == Some(key);
                        (state.replica.who(key) == Some(i64::from(user))) == own
                    })
            })
    }

    fn is_equal_when_all_is_applied(&self, state: &State) -> bool {
        let replica = &state.replica;
        state.database.unnoticed_restore
            || replica.cache.applied() != Some(state.position())
            || replica.cache.wanted().is_some()
            || replica.comparable > state.position()
            || replica.has_sources()
            || state.database.in_backlog
            || replica.equals(&state.database.numbered, self.0.keys)
    }

    fn converges(&self, state: &State) -> bool {
        if state.broken == Some(Broken::NoEndOfSnapshots) {
            return false;
        }
        if state.broken.is_some() {
            return true;
        }
        if state.is_quiet() && state.replica.marked {
            return state.is_converged(self.0.keys);
        }
        let mut actions = Vec::new();
        self.actions(state, &mut actions);
        !actions.is_empty() || state.is_converged(self.0.keys)
    }

    /// How a message may fare on its way into the replica's queue.
    #[must_use]
    pub fn fates(&self, state: &State) -> Vec<Fate> {
        if state.left.overflows > 0 && state.replica.subscribed {
            vec![Fate::Arrives, Fate::Dropped]
        } else {
            vec![Fate::Arrives]
        }
    }
}

impl Left {
    fn of(bounds: &Bounds) -> Self {
        Self {
            writes: bounds.writes,
            coalesces: bounds.coalesces,
            crashes: bounds.crashes,
            zombies: bounds.zombies,
            losses: bounds.losses,
            overflows: bounds.overflows,
            disconnects: bounds.disconnects,
            extra_snapshots: bounds.extra_snapshots,
            syncs: bounds.syncs,
            cuts: bounds.cuts,
            aborts: bounds.aborts,
            zombie_syncs: bounds.zombie_syncs,
            impatience: bounds.impatience,
            bookmarks: bounds.bookmarks,
            restores: bounds.restores,
        }
    }
}
