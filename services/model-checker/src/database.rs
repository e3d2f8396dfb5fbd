//! Server B's tables, with the relay's real numbering decision.

use std::collections::BTreeMap;

use server_b::relay::numbering::{Look, OutboxRow, RelayState, plan};
use server_b::wire_image::{KeyImage, WireImage};
use sqlx::types::Json;
use time::OffsetDateTime;
use wire_contract::{ApiKey, KeyDigest, Position, ShortDigest, UserId, UserRecord, UserSetDigest};

use crate::bounds::Rule;

/// A user's id.
pub type User = u8;
/// A key, by number.
pub type Key = u8;
/// Users with what matters of them.
pub type Table = BTreeMap<User, Row>;

/// A user's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Row {
    /// Its key, if it has one.
    pub key: Option<Key>,
    /// Grows with every change.
    pub version: i64,
}

/// A row of the outbox.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Change {
    /// Identity.
    pub id: i64,
    /// The transaction by which snapshots tell whether they have seen it.
    pub transaction: i64,
    /// Not committed yet.
    pub open: bool,
    /// Its number, once it has one.
    pub position: Option<Position>,
    /// The user.
    pub user: User,
    /// Version of the change.
    pub version: i64,
    /// Before.
    pub old: Option<Row>,
    /// After.
    pub new: Option<Row>,
}

/// A transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Write {
    /// A new user with a key.
    Create(User, Key),
    /// Another key.
    Rekey(User, Key),
    /// The user goes.
    Delete(User),
    /// The first user's key moves to the second.
    Move(User, User),
    /// The key goes, and a trigger inside the statement gives another: its outbox row comes first.
    Nested(User, Key),
}

/// The tables.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Database {
    /// Committed users.
    pub table: Table,
    /// Users as of `sequence`.
    pub numbered: Table,
    /// Where each user's last change got its number.
    pub last: BTreeMap<User, Position>,
    /// The outbox.
    pub outbox: Vec<Change>,
    /// Users ever created.
    pub created: User,
    /// Identities, versions and transactions given.
    pub drawn: i64,
    /// The relay's row.
    pub relay: Relay,
    /// A restore that nobody has noticed yet.
    pub unnoticed_restore: bool,
    /// Numbers end in the middle of a backlog, where a key may be with two users. A leader knows of its own batches only.
    pub in_backlog: bool,
    /// The highest identity that the relay has passed; kept only where [`Rule::NumbersFollowCommits`] is taken away.
    passed: i64,
    /// What was before the oldest row that has a number; kept only where [`Rule::NumbersAreKept`] is taken away.
    before: Option<Box<Before>>,
}

/// What numbering did.
#[derive(Debug)]
pub struct Numbered {
    /// Rows in the order of their numbers.
    pub rows: Vec<Change>,
    /// By the relay's own judgement: nothing without a number was left.
    pub left_nothing: bool,
    /// Count and digest that are yet to be stored; only where [`Rule::DigestWithNumbers`] is taken away.
    pub late: Option<(i64, UserSetDigest)>,
}

type Before = (Relay, Table, BTreeMap<User, Position>);

/// The relay's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Relay {
    /// Whose turn it is.
    pub term: i64,
    /// Last number given.
    pub position: Position,
    /// Users after it.
    pub count: i64,
    /// Their digest.
    pub digest: UserSetDigest,
}

impl Database {
    /// `users` users with a key each, all numbered and published.
    #[must_use]
    pub fn new(users: u8) -> Self {
        let mut database = Self {
            table: Table::new(),
            numbered: Table::new(),
            last: BTreeMap::new(),
            outbox: Vec::new(),
            created: 0,
            drawn: 0,
            relay: Relay {
                term: 0,
                position: Position {
                    epoch: 1,
                    sequence: 0,
                },
                count: 0,
                digest: UserSetDigest::default(),
            },
            unnoticed_restore: false,
            in_backlog: false,
            passed: 0,
            before: None,
        };
        for user in 1..=users {
            let transaction = database.write(Write::Create(user, user));
            database.commit(Some(transaction));
        }
        database.number(usize::MAX, None);
        database.outbox.clear();
        database
    }

    /// Begins a transaction and makes its changes; returns its number.
    pub fn write(&mut self, write: Write) -> i64 {
        self.drawn += 1;
        let transaction = self.drawn;
        match write {
            Write::Create(user, key) => {
                self.created = user;
                self.change(transaction, user, Some(Some(key)));
            }
            Write::Rekey(user, key) => self.change(transaction, user, Some(Some(key))),
            Write::Delete(user) => self.change(transaction, user, None),
            Write::Move(from, to) => {
                let key = self.table[&from].key;
                self.change(transaction, from, Some(None));
                self.change(transaction, to, Some(key));
            }
            Write::Nested(user, key) => {
                self.change(transaction, user, Some(None));
                self.change(transaction, user, Some(Some(key)));
                self.swap_identities();
            }
        }
        transaction
    }

    /// `to` is the user's key afterwards; `None` deletes the user.
    #[expect(clippy::option_option, reason = "no user and no key are two things")]
    fn change(&mut self, transaction: i64, user: User, to: Option<Option<Key>>) {
        self.drawn += 1;
        let version = self.drawn;
        self.outbox.push(Change {
            id: version,
            transaction,
            open: true,
            position: None,
            user,
            version,
            old: self.before(transaction, user),
            new: to.map(|key| Row { key, version }),
        });
    }

    /// The user as the transaction sees it.
    fn before(&self, transaction: i64, user: User) -> Option<Row> {
        let own = self.outbox.iter().rev();
        own.filter(|change| change.transaction == transaction)
            .find(|change| change.user == user)
            .map_or_else(|| self.table.get(&user).copied(), |change| change.new)
    }

    /// The last two rows were queued in the reverse order of their changes.
    fn swap_identities(&mut self) {
        if let [.., first, second] = self.outbox.as_mut_slice() {
            std::mem::swap(&mut first.id, &mut second.id);
            std::mem::swap(first, second);
        }
    }

    /// Ends a transaction, or whichever is open.
    pub fn commit(&mut self, transaction: Option<i64>) {
        let ends = |it: &&mut Change| it.open && transaction.is_none_or(|of| of == it.transaction);
        let mut open: Vec<&mut Change> = self.outbox.iter_mut().filter(ends).collect();
        open.sort_by_key(|change| change.version);
        for change in open {
            change.open = false;
            match change.new {
                Some(row) => self.table.insert(change.user, row),
                None => self.table.remove(&change.user),
            };
        }
    }

    /// Whether a transaction is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.outbox.iter().any(|change| change.open)
    }

    /// Committed rows without a number.
    pub fn unnumbered(&self) -> impl Iterator<Item = &Change> {
        self.outbox
            .iter()
            .filter(|change| !change.open && change.position.is_none())
    }

    /// Rows with a number, in its order.
    #[must_use]
    pub fn with_numbers(&self) -> Vec<Change> {
        let mut rows: Vec<Change> = self
            .outbox
            .iter()
            .filter(|change| change.position.is_some())
            .cloned()
            .collect();
        rows.sort_by_key(|change| change.position);
        rows
    }

    /// Transactions that a read sees and the relay has not numbered.
    #[must_use]
    pub fn visible(&self) -> Vec<i64> {
        self.unnumbered().map(|change| change.transaction).collect()
    }

    /// Whether one of these transactions is not numbered.
    #[must_use]
    pub fn pending(&self, visible: &[i64]) -> bool {
        self.unnumbered()
            .any(|change| visible.contains(&change.transaction))
    }

    /// Numbers a batch, by the relay's own decision.
    ///
    /// # Panics
    /// Never: the model's images are whole.
    pub fn number(&mut self, limit: usize, without: Option<Rule>) -> Numbered {
        if without == Some(Rule::NumbersAreKept) && self.with_numbers().is_empty() {
            let before = (self.relay, self.numbered.clone(), self.last.clone());
            self.before = Some(Box::new(before));
        }
        if without == Some(Rule::NumbersFollowCommits) {
            self.forget_passed();
        }
        let mut rows: Vec<Change> = self.unnumbered().cloned().collect();
        if without != Some(Rule::CoalescingFollowsVersions) {
            // A batch that ended between two rows of one statement would leave a hole in what its user went through.
            rows.sort_by_key(|change| change.version);
        }
        rows.truncate(limit);
        let by_identity = without == Some(Rule::CoalescingFollowsVersions);
        let given = rows.iter().map(|row| to_outbox_row(row, by_identity));
        let batch = plan(given.collect(), self.relay.state());
        self.outbox
            .retain(|change| !batch.superseded.contains(&change.id));
        let keeps_old_image = without != Some(Rule::CoalescingKeepsOldImage);
        let numbered = batch
            .rows
            .iter()
            .map(|row| self.note_number(row, keeps_old_image))
            .collect();
        let late = (without == Some(Rule::DigestWithNumbers))
            .then_some((batch.state.user_count, batch.state.digest));
        self.relay.take(&batch.state, late.is_none());
        let more = self.unnumbered().next().is_some();
        self.in_backlog = more;
        if without == Some(Rule::CoalescingKeepsOldImage) {
            self.forget_old_images(&rows, &batch.superseded);
        }
        let look = Look {
            at: OffsetDateTime::UNIX_EPOCH,
            batch: Some(batch),
        };
        Numbered {
            rows: numbered,
            left_nothing: look.left_nothing(i64::try_from(limit).unwrap_or(i64::MAX)),
            late,
        }
    }

    fn note_number(&mut self, row: &OutboxRow, keeps_old_image: bool) -> Change {
        let position = Position {
            epoch: row.epoch,
            sequence: row.sequence,
        };
        let change = self
            .outbox
            .iter_mut()
            .find(|change| change.id == row.id)
            .expect("plan returns rows that it was given");
        change.position = Some(position);
        if keeps_old_image {
            change.old = row.old_image.as_ref().map(|Json(image)| from_image(image));
        }
        let change = change.clone();
        self.last.insert(change.user, position);
        match change.new {
            Some(row) if self.numbered_version(change.user) > row.version => {}
            Some(row) => {
                self.numbered.insert(change.user, row);
            }
            None => {
                self.numbered.remove(&change.user);
            }
        }
        change
    }

    fn numbered_version(&self, user: User) -> i64 {
        self.numbered.get(&user).map_or(0, |row| row.version)
    }

    /// Whether nothing happened to the user after this position.
    #[must_use]
    pub fn is_settled(&self, user: User, position: Position) -> bool {
        self.unnumbered().all(|change| change.user != user)
            && self.last.get(&user).is_none_or(|last| *last <= position)
    }

    /// Whether count and digest are those of the users as far as they are numbered.
    #[must_use]
    pub fn folds_what_it_numbers(&self) -> bool {
        self.is_between_states()
            || (self.relay.digest == digest_of(&self.numbered)
                && usize::try_from(self.relay.count) == Ok(self.numbered.len()))
    }

    /// Whether the digest is not that of any state: a batch may end between two changes of one statement, with the newer
    /// one in it.
    fn is_between_states(&self) -> bool {
        self.unnumbered()
            .any(|change| change.version < self.numbered_version(change.user))
    }

    /// Rows below the highest number are not looked for again: they had none when their turn came.
    fn forget_passed(&mut self) {
        let passed = self.passed;
        self.outbox
            .retain(|change| change.open || change.position.is_some() || change.id > passed);
        let highest = self.unnumbered().map(|change| change.id).max();
        self.passed = passed.max(highest.unwrap_or(0));
    }

    /// What the digest would be, had the newest row of each user kept its own old image.
    fn forget_old_images(&mut self, rows: &[Change], superseded: &[i64]) {
        for row in rows {
            if superseded.contains(&row.id)
                && let Some(newest) = rows.iter().rfind(|other| other.user == row.user)
            {
                if let Some(first) = row.old {
                    self.relay.digest += digest(row.user, &first);
                    self.relay.count += 1;
                }
                if let Some(own) = newest.old {
                    self.relay.digest -= digest(row.user, &own);
                    self.relay.count -= 1;
                }
            }
        }
    }

    /// What `numbering::coalesce` does in SQL: one unnumbered row of each user, the newest by version, with the oldest's
    /// old image and transaction.
    pub fn coalesce(&mut self, without: Option<Rule>) {
        let by_identity = without == Some(Rule::CoalescingFollowsVersions);
        let order = |change: &Change| {
            if by_identity {
                change.id
            } else {
                change.version
            }
        };
        let mut rows: Vec<Change> = self.unnumbered().cloned().collect();
        rows.sort_by_key(order);
        for row in &rows {
            let of_user = || rows.iter().filter(|other| other.user == row.user);
            let (Some(oldest), Some(newest)) = (of_user().next(), of_user().next_back()) else {
                continue;
            };
            if newest.id != row.id {
                self.outbox.retain(|change| change.id != row.id);
            }
            for kept in self.outbox.iter_mut().filter(|it| it.id == newest.id) {
                kept.old = oldest.old;
                if without != Some(Rule::CoalescingKeepsTransaction) {
                    kept.transaction = oldest.transaction;
                }
            }
        }
    }

    /// Numbers that are not known to be published are given anew.
    pub fn forget_numbers(&mut self) {
        let Some(before) = self.before.take() else {
            return;
        };
        if self.with_numbers().is_empty() {
            return;
        }
        let term = self.relay.term;
        (self.relay, self.numbered, self.last) = *before;
        self.relay.term = term;
        for change in &mut self.outbox {
            change.position = None;
        }
    }

    /// Begins an epoch: everything counts as changed there.
    pub fn begin_epoch(&mut self, epoch: i64, users: u8) {
        self.relay.position.epoch = epoch;
        self.unnoticed_restore = false;
        for user in 1..=users {
            self.last.insert(user, self.relay.position);
        }
    }
}

impl Relay {
    /// As the relay reads it.
    #[must_use]
    pub fn state(&self) -> RelayState {
        RelayState {
            term: self.term,
            epoch: self.position.epoch,
            sequence: self.position.sequence,
            user_count: self.count,
            digest: self.digest,
            digest_version: wire_contract::DIGEST_VERSION,
            audits: 0,
            audited_at: None,
        }
    }

    fn take(&mut self, state: &RelayState, with_digest: bool) {
        self.position.sequence = state.sequence;
        if with_digest {
            self.count = state.user_count;
            self.digest = state.digest;
        }
    }
}

fn to_outbox_row(change: &Change, by_identity: bool) -> OutboxRow {
    OutboxRow {
        id: change.id,
        epoch: 0,
        sequence: 0,
        user_id: UserId::from(change.user),
        version: if by_identity {
            change.id
        } else {
            change.version
        },
        old_image: change.old.map(|row| Json(to_image(change.user, row))),
        new_image: change.new.map(|row| Json(to_image(change.user, row))),
        traceparent: None,
        tracestate: None,
        occurred_at: OffsetDateTime::UNIX_EPOCH,
        committed_at: OffsetDateTime::UNIX_EPOCH,
        superseded_traces: vec![],
    }
}

fn to_image(user: User, row: Row) -> WireImage {
    WireImage {
        user_id: UserId::from(user),
        username: String::new(),
        is_active: true,
        daily_quota: 1,
        version: row.version,
        keys: row
            .key
            .map(|key| KeyImage {
                digest: *key_digest(key).as_bytes(),
                sealed: None,
                expires_at_us: None,
            })
            .into_iter()
            .collect(),
    }
}

fn from_image(image: &WireImage) -> Row {
    Row {
        key: image.keys.first().map(|key| key.digest[0]),
        version: image.version,
    }
}

/// A user as the wire carries it.
#[must_use]
pub fn record(user: User, row: &Row) -> UserRecord {
    UserRecord {
        user_id: UserId::from(user),
        api_key: row.key.map(|key| ApiKey::Digest(key_digest(key))),
        username: String::new(),
        is_active: true,
        daily_quota: 1,
        previous_keys: vec![],
        version: row.version,
    }
}

/// Its part of the digest.
#[must_use]
pub fn digest(user: User, row: &Row) -> UserSetDigest {
    UserSetDigest::of_user(&record(user, row))
}

/// The digest of all.
pub fn digest_of<'a>(rows: impl IntoIterator<Item = (&'a User, &'a Row)>) -> UserSetDigest {
    let mut sum = UserSetDigest::default();
    for (user, row) in rows {
        sum += digest(*user, row);
    }
    sum
}

/// The digest that stands for a key: the key's number, so that it reads back.
#[must_use]
pub fn key_digest(key: Key) -> KeyDigest {
    KeyDigest::from_bytes([key; 32])
}

/// What replicas look it up by.
#[must_use]
pub fn short(key: Key) -> ShortDigest {
    key_digest(key).short()
}
