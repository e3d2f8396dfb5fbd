//! What one server B does at a time: the holder of an advisory lock, on a connection of its own.

use std::time::Duration;

use anyhow::Context;
use sqlx::{Connection, PgConnection, PgPool};
use tokio::time::Instant;

/// Of the relay. Arbitrary, but the same for every server B of a database, as are the others.
pub const RELAY: i64 = 0x1DE7_5711_C0DE_0001;
/// Of full syncs.
pub const FULL_SYNCS: i64 = 0x1DE7_5711_C0DE_0002;
/// Of the answers to snapshot requests: requests that arrive together share one read only where they arrive at one.
pub const SNAPSHOTS: i64 = 0x1DE7_5711_C0DE_0003;

/// How often a process that does not hold the lock asks for it.
const TRY_EVERY: Duration = Duration::from_millis(500);
/// A proxy between may keep the session of a holder that is gone. A holder asks each second, but for the steps between,
/// which are cut sooner than this.
const FORGET_A_LOST_HOLDER: &str = "SET idle_session_timeout = '45s'";
/// How often the holder asks whether its connection, and with it the lock, still stands.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// A database that has not taken the connection by then is away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that does not answer by then is lost.
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);

/// The lock, held as long as its connection lives.
#[derive(Debug)]
pub struct Lock {
    connection: PgConnection,
    checked: Instant,
}

impl Lock {
    /// Waits for the lock.
    pub async fn acquire(pool: &PgPool, key: i64) -> anyhow::Result<Self> {
        let mut connection = tokio::time::timeout(CONNECT_TIMEOUT, connect(pool))
            .await
            .context("the database does not answer")??;
        while !tokio::time::timeout(CHECK_TIMEOUT, try_lock(&mut connection, key))
            .await
            .context("the lock's connection does not answer")??
        {
            // Not pg_advisory_lock: a statement that waits holds back vacuum.
            tokio::time::sleep(TRY_EVERY).await;
        }
        Ok(Self {
            connection,
            checked: Instant::now(),
        })
    }

    /// Returns why the lock is lost, once it is.
    pub async fn lost(&mut self) -> anyhow::Error {
        loop {
            tokio::time::sleep(CHECK_EVERY).await;
            if let Err(error) = self.check().await {
                return error;
            }
        }
    }

    /// Fails when the connection is gone, and so the lock.
    pub async fn check(&mut self) -> anyhow::Result<()> {
        if self.checked.elapsed() < CHECK_EVERY {
            return Ok(());
        }
        tokio::time::timeout(CHECK_TIMEOUT, self.connection.ping())
            .await
            .context("the lock's connection does not answer")?
            .context("the lock's connection is lost")?;
        self.checked = Instant::now();
        Ok(())
    }
}

async fn connect(pool: &PgPool) -> anyhow::Result<PgConnection> {
    let mut connection = PgConnection::connect_with(&pool.connect_options())
        .await
        .context("cannot connect to the database")?;
    sqlx::query(FORGET_A_LOST_HOLDER)
        .execute(&mut connection)
        .await
        .context("cannot limit the lock's session")?;
    Ok(connection)
}

async fn try_lock(connection: &mut PgConnection, key: i64) -> anyhow::Result<bool> {
    sqlx::query_scalar("SELECT pg_try_advisory_lock($1)")
        .bind(key)
        .fetch_one(connection)
        .await
        .context("cannot ask for the lock")
}
