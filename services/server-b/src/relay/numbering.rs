//! Gives outbox rows their numbers, and keeps count and digest of the users with them.

use anyhow::Context;
use service_runtime::trace::TraceContext;
use sqlx::types::Json;
use sqlx::{PgConnection, PgExecutor, PgPool};
use time::OffsetDateTime;
use wire_contract::{DIGEST_VERSION, Position, UserSetDigest};

use crate::wire_image::WireImage;

/// What is read of the relay's row. Named one by one: a later release may add columns while this one runs, and a
/// prepared statement whose result changes fails for ever.
macro_rules! columns {
    () => {
        "term, epoch, sequence, user_count, digest, digest_version, audits, audited_at"
    };
}

/// Tells a restored database from the one that it was.
macro_rules! history {
    () => {
        "(SELECT concat_ws('/',
             system_identifier,
             -- The first eight hex digits of a WAL file's name are its timeline.
             left(pg_walfile_name(pg_current_wal_lsn()), 8),
             -- A base backup cannot be put back without a restart, nor a dump without other tables.
             extract(epoch FROM pg_postmaster_start_time()),
             (SELECT oid FROM pg_database WHERE datname = current_database()),
             'relay_state'::regclass::oid
         ) AS history FROM pg_control_system())"
    };
}

/// The relay's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayState {
    /// Whose turn it is.
    pub term: i64,
    /// Epoch of the numbers.
    pub epoch: i64,
    /// Last number given.
    pub sequence: i64,
    /// Users after that number.
    pub user_count: i64,
    /// Their digest.
    pub digest: UserSetDigest,
    /// Of which version that is: see [`wire_contract::DIGEST_VERSION`]. That of another release means nothing to this one,
    /// which folds its own hashes into it, until an audit has computed it anew.
    pub digest_version: u16,
    /// Audits so far.
    pub audits: i64,
    /// When the digest was last compared with the tables themselves.
    pub audited_at: Option<OffsetDateTime>,
}

/// A row of the outbox.
#[derive(Clone, sqlx::FromRow)]
pub struct OutboxRow {
    /// Grows with each transaction of one user; within one, see [`plan`].
    pub id: i64,
    /// Epoch of the number; 0 before it has one.
    pub epoch: i64,
    /// Number; 0 before it has one.
    pub sequence: i64,
    /// The user.
    pub user_id: i64,
    /// Version of the change: grows in the order of the changes of one user.
    pub version: i64,
    /// The user before; `None` if it was created.
    pub old_image: Option<Json<WireImage>>,
    /// The user after; `None` if it was deleted.
    pub new_image: Option<Json<WireImage>>,
    /// W3C trace context of whoever made the change.
    pub traceparent: Option<String>,
    /// W3C trace context of whoever made the change.
    pub tracestate: Option<String>,
    /// When the statement made the change.
    pub occurred_at: OffsetDateTime,
    /// When the oldest change that it stands for was committed, or somewhat before: when that was made, where nothing better
    /// is known.
    pub committed_at: OffsetDateTime,
    /// Traces of the older changes that it stands for, one each, empty or not.
    #[sqlx(skip)]
    pub superseded_traces: Vec<TraceContext>,
}

impl OutboxRow {
    /// The trace in which the change was made; empty for one made by plain SQL.
    #[must_use]
    pub fn trace(&self) -> TraceContext {
        TraceContext::received(self.traceparent.clone(), self.tracestate.clone())
    }

    /// Whether it stands for older changes of this batch.
    fn is_merged(&self) -> bool {
        !self.superseded_traces.is_empty()
    }

    /// Takes over what an older change of the same user leaves: the image from before it, since when it waits, its traces.
    fn stand_for(&mut self, older: Self) {
        let trace = older.trace();
        self.superseded_traces = older.superseded_traces;
        self.superseded_traces.push(trace);
        self.old_image = older.old_image;
        self.committed_at = self.committed_at.min(older.committed_at);
    }
}

/// What numbering does with a batch.
pub struct Batch {
    /// Rows in the order of their numbers.
    pub rows: Vec<OutboxRow>,
    /// Rows of users that have a newer one.
    pub superseded: Vec<i64>,
    /// The relay's row after the batch.
    pub state: RelayState,
}

impl Batch {
    /// Notes that nothing of it was committed by `caught_up`, when all there was had a number: a transaction that took long
    /// made its changes before, and committed them after.
    pub fn committed_after(&mut self, caught_up: OffsetDateTime) {
        for row in &mut self.rows {
            row.committed_at = row.committed_at.max(caught_up);
        }
    }

    /// Whether rows may have been left for the next batch.
    #[must_use]
    pub fn is_full(&self, limit: i64) -> bool {
        i64::try_from(self.rows.len() + self.superseded.len()).is_ok_and(|taken| taken >= limit)
    }
}

/// What a look into the outbox found.
pub struct Look {
    /// When it was, by the database's clock: what it did not see was committed later.
    pub at: OffsetDateTime,
    /// The rows that were numbered; `None` when there were none.
    pub batch: Option<Batch>,
}

impl Look {
    /// Whether everything that was committed by then has a number now.
    #[must_use]
    pub fn left_nothing(&self, limit: i64) -> bool {
        self.batch
            .as_ref()
            .is_none_or(|batch| !batch.is_full(limit))
    }
}

/// Another leader has taken over.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("fenced: another relay leads in term {term}")]
pub struct Fenced {
    /// Its term.
    pub term: i64,
}

/// Decides: of each user the newest row gets a number and stands for all; count and digest follow.
///
/// Newest by version: where one statement writes both a user and its keys, a trigger that runs within another's writes its
/// row first, so ids may be in the reverse order.
#[must_use]
pub fn plan(mut all: Vec<OutboxRow>, mut state: RelayState) -> Batch {
    all.sort_unstable_by_key(|row| (row.user_id, row.version));
    let mut superseded = Vec::new();
    let mut rows: Vec<OutboxRow> = Vec::with_capacity(all.len());
    for mut row in all {
        // Each of them, not only the first and the last: what lies between may be in another batch.
        state.fold(&row);
        if let Some(older) = rows.pop_if(|last| last.user_id == row.user_id) {
            superseded.push(older.id);
            row.stand_for(older);
        }
        rows.push(row);
    }
    rows.sort_unstable_by_key(|row| row.version);
    for row in &mut rows {
        state.sequence += 1;
        row.epoch = state.epoch;
        row.sequence = state.sequence;
    }
    Batch {
        rows,
        superseded,
        state,
    }
}

impl RelayState {
    fn fold(&mut self, row: &OutboxRow) {
        if let Some(Json(old)) = &row.old_image {
            self.digest -= old.digest();
            self.user_count -= 1;
        }
        if let Some(Json(new)) = &row.new_image {
            self.digest += new.digest();
            self.user_count += 1;
        }
    }
}

/// The database is not the one in which the term began.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the database was restored")]
pub struct Restored;

/// Begins a term: whoever numbered before is fenced. A database that may not be the one that the replicas know (another
/// server or timeline, or put back from a base backup or a dump) begins a new epoch: it would give the numbers that were
/// lost once more.
pub async fn take_term(pool: &PgPool) -> anyhow::Result<RelayState> {
    let row: StateRow = sqlx::query_as(concat!(
        "UPDATE relay_state SET
             term = term + 1,
             -- By the clock, since the epoch after this one may have been lost, too.
             epoch = CASE WHEN relay_state.history <> now.history
                          THEN greatest(epoch + 1, extract(epoch FROM clock_timestamp())::bigint) ELSE epoch END,
             history = now.history
         FROM ",
        history!(),
        " AS now RETURNING ",
        columns!()
    ))
    .fetch_one(pool)
    .await
    .context("cannot take the relay's term")?;
    row.try_into()
}

/// Looks whether the database is still the one in which the term began: a dump put back under a leader has its term.
///
/// # Errors
/// [`Restored`] when it is not.
pub async fn check_history(pool: &PgPool) -> anyhow::Result<()> {
    let same: bool = sqlx::query_scalar(concat!(
        "SELECT relay_state.history = now.history FROM relay_state, ",
        history!(),
        " AS now"
    ))
    .fetch_one(pool)
    .await
    .context("cannot read the database's history")?;
    anyhow::ensure!(same, Restored);
    Ok(())
}

/// A replica has applied more than this database has ever numbered: an older state was restored. Begins an
/// epoch above the replica's; `None` when the replica is not ahead.
pub async fn leave_epoch(pool: &PgPool, replica: Position) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar(
        "UPDATE relay_state SET epoch = $1 + 1
         WHERE ($1, $2) > (epoch, sequence) RETURNING epoch",
    )
    .bind(replica.epoch)
    .bind(replica.sequence)
    .fetch_optional(pool)
    .await
}

/// Notes that a bookmark was confirmed.
pub async fn note_bookmark(pool: &PgPool) -> anyhow::Result<()> {
    sqlx::query("UPDATE relay_state SET bookmarked_at = now()")
        .execute(pool)
        .await
        .context("cannot note a bookmark")?;
    Ok(())
}

/// The relay's row as it is.
pub async fn state(connection: impl PgExecutor<'_>) -> anyhow::Result<RelayState> {
    let row: StateRow = sqlx::query_as(concat!("SELECT ", columns!(), " FROM relay_state"))
        .fetch_one(connection)
        .await
        .context("cannot read the relay's state")?;
    row.try_into()
}

/// The relay's row, locked until the transaction ends.
pub async fn locked_state(transaction: &mut PgConnection) -> anyhow::Result<RelayState> {
    let row: StateRow = sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM relay_state FOR UPDATE"
    ))
    .fetch_one(transaction)
    .await
    .context("cannot lock the relay's state")?;
    row.try_into()
}

/// The position of the stream, as the given transaction sees it.
pub async fn position(connection: &mut PgConnection) -> sqlx::Result<Position> {
    let (epoch, sequence) = sqlx::query_as("SELECT epoch, sequence FROM relay_state")
        .fetch_one(connection)
        .await?;
    Ok(Position { epoch, sequence })
}

/// Numbers up to `limit` rows, and what else there is of their users.
///
/// # Errors
/// [`Fenced`] when `term` is over.
pub async fn number(pool: &PgPool, term: i64, limit: i64) -> anyhow::Result<Look> {
    // A look without a lock first: an idle relay looks often and must not write. The time is the transaction's, which is from
    // before its snapshot; the statement's may be from after it.
    let (any, at): (bool, OffsetDateTime) =
        sqlx::query_as("SELECT EXISTS (SELECT FROM outbox WHERE sequence IS NULL), now()")
            .fetch_one(pool)
            .await
            .context("cannot look into the outbox")?;
    let batch = if any {
        Some(number_batch(pool, term, limit).await?)
    } else {
        None
    };
    Ok(Look { at, batch })
}

async fn number_batch(pool: &PgPool, term: i64, limit: i64) -> anyhow::Result<Batch> {
    let mut transaction = (pool.begin_with(NUMBERING))
        .await
        .context("cannot begin numbering")?;
    let state = lock_state(&mut transaction, term).await?;
    let (users, seen): (Vec<i64>, String) = sqlx::query_as(
        "SELECT array(SELECT user_id FROM outbox WHERE sequence IS NULL ORDER BY id LIMIT $1), pg_current_snapshot()::text",
    )
    .bind(limit)
    .fetch_one(&mut *transaction)
    .await
    .context("cannot look whose changes come next")?;
    if users.len() > FEW {
        // Planned with the lists before its eyes, PostgreSQL hashes them.
        sqlx::query("SET LOCAL plan_cache_mode = force_custom_plan")
            .execute(&mut *transaction)
            .await
            .context("cannot set how PostgreSQL plans")?;
    }
    let rows: Vec<OutboxRow> = sqlx::query_as(
        "SELECT id, 0::bigint AS epoch, 0::bigint AS sequence, user_id, version, old_image, new_image,
                traceparent, tracestate, occurred_at, coalesce(waiting_since, occurred_at) AS committed_at
         FROM outbox
         -- All of a user, beyond the limit, too: parts of a statement must not be numbered, or coalesced, apart.
         WHERE sequence IS NULL AND user_id = ANY($1)
           -- What was committed since may be a part of a change that others are in, too, such as a key that moves: a digest
           -- between the two would be nobody's.
           AND pg_visible_in_snapshot(txid, $2::text::pg_snapshot)",
    )
    .bind(&users)
    .bind(seen)
    .fetch_all(&mut *transaction)
    .await
    .context("cannot read the outbox")?;
    let batch = plan(rows, state);
    store(&mut transaction, &batch).await?;
    transaction
        .commit()
        .await
        .context("cannot commit numbers")?;
    Ok(batch)
}

/// The outbox is empty most of the time, and the statistics say so when it is not. By them PostgreSQL would compare every row
/// of a batch with every row of the outbox, or sort all of it for the first few: without nested loops, scans and sorts as far
/// as there is another way, each batch is found by the indexes.
const NUMBERING: &str = "BEGIN; SET LOCAL enable_nestloop = off; SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off";
/// Of so many a plan that suits any number is good enough, and one of their own would be late.
const FEW: usize = 100;

/// Two leaders, one of them a zombie, take turns here; the term tells which may go on.
async fn lock_state(transaction: &mut PgConnection, term: i64) -> anyhow::Result<RelayState> {
    let state = locked_state(transaction).await?;
    anyhow::ensure!(state.term == term, Fenced { term: state.term });
    Ok(state)
}

async fn store(transaction: &mut PgConnection, batch: &Batch) -> anyhow::Result<()> {
    if !batch.superseded.is_empty() {
        sqlx::query("DELETE FROM outbox WHERE id = ANY($1)")
            .bind(&batch.superseded)
            .execute(&mut *transaction)
            .await
            .context("cannot delete superseded rows")?;
        store_merged(transaction, batch).await?;
    }
    let (ids, sequences): (Vec<i64>, Vec<i64>) =
        batch.rows.iter().map(|row| (row.id, row.sequence)).unzip();
    sqlx::query(
        "UPDATE outbox SET epoch = $3, sequence = numbered.sequence
         FROM unnest($1::bigint[], $2::bigint[]) AS numbered (id, sequence)
         WHERE outbox.id = numbered.id AND outbox.id = ANY($1)",
    )
    .bind(&ids)
    .bind(&sequences)
    .bind(batch.state.epoch)
    .execute(&mut *transaction)
    .await
    .context("cannot store numbers")?;
    sqlx::query(
        "UPDATE relay_state SET sequence = $1, user_count = $2, digest = $3, sleeping = false,
                -- Hashes of two releases in one sum are of neither.
                digest_version = CASE WHEN digest_version = $4 THEN digest_version ELSE 0 END",
    )
    .bind(batch.state.sequence)
    .bind(batch.state.user_count)
    .bind(batch.state.digest.to_bytes().as_slice())
    .bind(DIGEST_VERSION.cast_signed())
    .execute(transaction)
    .await
    .context("cannot store the relay's state")?;
    Ok(())
}

/// What a row that stands for others tells, but for their traces, must outlive this process: whoever publishes it after a
/// crash has the row alone.
async fn store_merged(transaction: &mut PgConnection, batch: &Batch) -> anyhow::Result<()> {
    let merged: Vec<&OutboxRow> = batch.rows.iter().filter(|row| row.is_merged()).collect();
    let (ids, since): (Vec<i64>, Vec<OffsetDateTime>) =
        merged.iter().map(|row| (row.id, row.committed_at)).unzip();
    let old_images: Vec<&Option<Json<WireImage>>> =
        merged.iter().map(|row| &row.old_image).collect();
    sqlx::query(
        "UPDATE outbox SET old_image = merged.old_image, waiting_since = merged.since
         FROM unnest($1::bigint[], $2::jsonb[], $3::timestamptz[]) AS merged (id, old_image, since)
         WHERE outbox.id = merged.id AND outbox.id = ANY($1)",
    )
    .bind(&ids)
    .bind(&old_images)
    .bind(&since)
    .execute(transaction)
    .await
    .context("cannot store what merged rows stand for")?;
    Ok(())
}

/// Whether every change that PostgreSQL's `snapshot` shows is numbered.
pub async fn numbered_by(pool: &PgPool, snapshot: &str) -> anyhow::Result<NumberedBy> {
    let (pending, epoch, sequence): (bool, i64, i64) = sqlx::query_as(
        "SELECT EXISTS (SELECT FROM outbox WHERE sequence IS NULL
                        AND pg_visible_in_snapshot(txid, $1::text::pg_snapshot)), epoch, relay_state.sequence
         FROM relay_state",
    )
    .bind(snapshot)
    .fetch_one(pool)
    .await
    .context("cannot look into the outbox")?;
    let position = Position { epoch, sequence };
    Ok(if pending {
        NumberedBy::Not(position)
    } else {
        NumberedBy::Now(position)
    })
}

/// Whether every change that a snapshot of PostgreSQL has seen is numbered, and the last number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NumberedBy {
    /// Each is, by now.
    Now(Position),
    /// Some are not yet.
    Not(Position),
}

/// Rows that have a number, in its order.
pub async fn numbered(pool: &PgPool, limit: i64) -> anyhow::Result<Vec<OutboxRow>> {
    sqlx::query_as(
        "SELECT id, epoch, sequence, user_id, version, old_image, new_image,
                traceparent, tracestate, occurred_at, coalesce(waiting_since, occurred_at) AS committed_at
         FROM outbox WHERE sequence IS NOT NULL ORDER BY epoch, sequence LIMIT $1",
    )
    .bind(limit)
    .fetch_all(pool)
    .await
    .context("cannot read numbered rows")
}

/// Removes rows that the broker has confirmed, given in the order of their numbers. By these, too: after a restore an id may be
/// another row's.
///
/// The commit does not wait for the disk: rows that come back by a crash of PostgreSQL are published again, under the numbers
/// that replicas know.
pub async fn delete(pool: &PgPool, rows: &[OutboxRow]) -> anyhow::Result<()> {
    let [first, ..] = rows else { return Ok(()) };
    let last = &rows[rows.len() - 1];
    let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
    sqlx::query(
        "WITH lazily AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true))
         DELETE FROM outbox USING lazily
         WHERE id = ANY($1) AND (epoch, sequence) >= ($2, $3) AND (epoch, sequence) <= ($4, $5)",
    )
    .bind(ids)
    .bind(first.epoch)
    .bind(first.sequence)
    .bind(last.epoch)
    .bind(last.sequence)
    .execute(pool)
    .await
    .context("cannot delete published rows")?;
    Ok(())
}

/// Tells the trigger whether to notify; what a former leader says does not count.
pub async fn set_sleeping(pool: &PgPool, term: i64, sleeping: bool) -> anyhow::Result<()> {
    sqlx::query("UPDATE relay_state SET sleeping = $1 WHERE sleeping <> $1 AND term = $2")
        .bind(sleeping)
        .bind(term)
        .execute(pool)
        .await
        .context("cannot tell that the relay sleeps")?;
    Ok(())
}

/// Users whose rows are coalesced at a time: seconds, however long the backlog is.
const COALESCED_USERS: i64 = 20_000;

/// Leaves one unnumbered row of each user: the newest, with the oldest's `old_image`, since when that waits, and its `txid`,
/// by which a snapshot tells whether all it has seen is numbered. Of [`COALESCED_USERS`] at most; returns how many rows were
/// removed.
pub async fn coalesce(pool: &PgPool, term: i64) -> anyhow::Result<u64> {
    // See `NUMBERING`; here every row is looked at anyway.
    let mut transaction = (pool.begin_with("BEGIN; SET LOCAL enable_nestloop = off"))
        .await
        .context("cannot begin coalescing")?;
    lock_state(&mut transaction, term).await?;
    let kept: Vec<i64> = sqlx::query_scalar(
        "WITH ranked AS (
             SELECT id,
                    first_value(old_image) OVER oldest AS first_image,
                    first_value(txid) OVER oldest AS first_txid,
                    first_value(coalesce(waiting_since, occurred_at)) OVER oldest AS first_made,
                    row_number() OVER (PARTITION BY user_id ORDER BY version DESC) AS age,
                    count(*) OVER (PARTITION BY user_id) AS rows
             FROM outbox WHERE sequence IS NULL AND user_id IN (
                 SELECT user_id FROM outbox WHERE sequence IS NULL GROUP BY user_id HAVING count(*) > 1
                 LIMIT $1)
             -- Not by id: see `plan`.
             WINDOW oldest AS (PARTITION BY user_id ORDER BY version)
         ), removed AS (
             DELETE FROM outbox USING ranked WHERE outbox.id = ranked.id AND age > 1
         )
         UPDATE outbox SET old_image = first_image, txid = first_txid, waiting_since = first_made
         FROM ranked WHERE outbox.id = ranked.id AND age = 1 AND rows > 1
         RETURNING rows - 1 AS removed",
    )
    .bind(COALESCED_USERS)
    .fetch_all(&mut *transaction)
    .await
    .context("cannot coalesce the outbox")?;
    transaction
        .commit()
        .await
        .context("cannot commit coalescing")?;
    Ok(kept.into_iter().map(i64::unsigned_abs).sum())
}

#[derive(sqlx::FromRow)]
struct StateRow {
    term: i64,
    epoch: i64,
    sequence: i64,
    user_count: i64,
    digest: Vec<u8>,
    digest_version: i16,
    audits: i64,
    audited_at: Option<OffsetDateTime>,
}

impl TryFrom<StateRow> for RelayState {
    type Error = anyhow::Error;

    fn try_from(row: StateRow) -> anyhow::Result<Self> {
        let digest = row
            .digest
            .try_into()
            .map_err(|_| anyhow::anyhow!("relay_state.digest is not 16 bytes"))?;
        Ok(Self {
            term: row.term,
            epoch: row.epoch,
            sequence: row.sequence,
            user_count: row.user_count,
            digest: UserSetDigest::from_bytes(digest),
            digest_version: row.digest_version.unsigned_abs(),
            audits: row.audits,
            audited_at: row.audited_at,
        })
    }
}

#[cfg(test)]
#[path = "numbering_tests.rs"]
mod tests;
