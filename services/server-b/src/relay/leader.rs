//! Who relays: the holder of an advisory lock, on a connection of its own.

use std::time::Duration;

use anyhow::Context;
use sqlx::{Connection, PgConnection, PgPool};
use tokio::time::Instant;

/// Arbitrary, but the same for every server B of a database.
const LOCK: i64 = 0x1DE7_5711_C0DE_0001;
/// How often the leader asks whether its connection, and with it the lock, still stands.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// A connection that does not answer by then is lost.
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);

/// The lock, held as long as its connection lives.
#[derive(Debug)]
pub struct Leadership {
    connection: PgConnection,
    checked: Instant,
}

impl Leadership {
    /// Takes the lock if it is free.
    pub async fn acquire(pool: &PgPool) -> anyhow::Result<Option<Self>> {
        let mut connection = PgConnection::connect_with(&pool.connect_options())
            .await
            .context("cannot connect to the database")?;
        let acquired: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)")
            .bind(LOCK)
            .fetch_one(&mut connection)
            .await
            .context("cannot ask for the relay's lock")?;
        Ok(acquired.then(|| Self {
            connection,
            checked: Instant::now(),
        }))
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
