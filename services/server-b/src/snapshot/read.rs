//! Reads every user in one transaction.

use std::time::Duration;

use anyhow::Context;
use futures_util::TryStreamExt;
use sqlx::{Connection, PgConnection, PgPool};
use tokio::time::Instant;
use wire_contract::{Position, UserSetDigest};

use crate::relay::numbering::{self, NumberedBy};
use crate::wire_image::{ALL_USERS, UserRow, WireImage};

/// Longest read of the table; a million users take seconds. Shorter than replicas wait for the first row.
const READ_TIMEOUT: Duration = Duration::from_secs(90);
/// For how long the relay may number nothing of what a read has seen; it takes milliseconds while it runs.
const NUMBERED_WITHIN: Duration = Duration::from_mins(1);
/// How long it may take for a backlog of a million changes and more; replicas wait a little longer for the end.
const BACKLOG_NUMBERED_WITHIN: Duration = Duration::from_mins(4);
const NUMBERED_POLL: Duration = Duration::from_millis(20);

/// What a read saw.
#[derive(Debug, Clone)]
pub struct UsersRead {
    /// Position of the stream.
    pub position: Position,
    /// Users read.
    pub count: u64,
    /// Their digest.
    pub digest: UserSetDigest,
    /// PostgreSQL's snapshot: tells which outbox rows the read has seen.
    pub(super) snapshot: String,
}

/// Hands every user, with the position, to `take`, all as of one moment. `take` must not wait for anyone: the transaction is
/// open until the last.
pub async fn all_users(
    pool: &PgPool,
    take: impl FnMut(Position, WireImage) -> anyhow::Result<()>,
) -> anyhow::Result<UsersRead> {
    all_users_with(pool, async |_| Ok(()), take).await
}

/// The same, after a look at something else as of the same moment.
pub async fn all_users_with(
    pool: &PgPool,
    first: impl AsyncFnOnce(&mut PgConnection) -> anyhow::Result<()>,
    take: impl FnMut(Position, WireImage) -> anyhow::Result<()>,
) -> anyhow::Result<UsersRead> {
    tokio::time::timeout(READ_TIMEOUT, read(pool, first, take))
        .await
        .context("the users could not be read in time")?
}

async fn read(
    pool: &PgPool,
    first: impl AsyncFnOnce(&mut PgConnection) -> anyhow::Result<()>,
    mut take: impl FnMut(Position, WireImage) -> anyhow::Result<()>,
) -> anyhow::Result<UsersRead> {
    // A connection of its own: a read of a million rows must not take one of the pool's for so long.
    let mut connection = PgConnection::connect_with(&pool.connect_options())
        .await
        .context("cannot connect to the database")?;
    let mut transaction = connection
        .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        .await
        .context("cannot begin a snapshot")?;
    let position = numbering::position(&mut transaction)
        .await
        .context("cannot read the stream's position")?;
    let snapshot: String = sqlx::query_scalar("SELECT pg_current_snapshot()::text")
        .fetch_one(&mut *transaction)
        .await
        .context("cannot read the transaction's snapshot")?;
    first(&mut transaction).await?;
    let mut count = 0;
    let mut digest = UserSetDigest::default();
    let mut rows = sqlx::query_as::<_, UserRow>(ALL_USERS).fetch(&mut *transaction);
    while let Some(row) = rows.try_next().await.context("cannot read the users")? {
        let user = WireImage::try_from(row)?;
        digest += user.digest();
        count += 1;
        take(position, user)?;
    }
    drop(rows);
    transaction
        .commit()
        .await
        .context("cannot end a snapshot")?;
    Ok(UsersRead {
        position,
        count,
        digest,
        snapshot,
    })
}

impl UsersRead {
    /// Waits until every change that the read has seen is numbered; the number by then.
    ///
    /// # Errors
    /// When no relay numbers them, or it takes too long.
    pub async fn comparable_from(&self, pool: &PgPool) -> anyhow::Result<i64> {
        let numbered = async {
            let (mut last, mut since) = (None, Instant::now());
            loop {
                match numbering::numbered_by(pool, &self.snapshot).await? {
                    NumberedBy::Now(position) => return Ok(position.sequence),
                    NumberedBy::Not(position) if last.replace(position) == Some(position) => {}
                    NumberedBy::Not(_) => since = Instant::now(),
                }
                anyhow::ensure!(
                    since.elapsed() < NUMBERED_WITHIN,
                    "no relay numbers the changes that the snapshot has seen"
                );
                tokio::time::sleep(NUMBERED_POLL).await;
            }
        };
        tokio::time::timeout(BACKLOG_NUMBERED_WITHIN, numbered)
            .await
            .context("the changes that the snapshot has seen are not numbered in time")?
    }
}
