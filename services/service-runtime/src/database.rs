//! PostgreSQL: the pool, migrations, and whether the database answers.

use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use backon::{BackoffBuilder, ExponentialBuilder};
use secrecy::ExposeSecret;
use sqlx::error::DatabaseError;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgConnection, PgPool};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

use crate::config::DatabaseArgs;
use crate::metrics;
use crate::problem::{DATABASE_UNAVAILABLE, Problem};
use crate::readiness::Gate;

const BAD_URL: &str =
    "DATABASE_URL is not a URL of the form postgres://user:password@host:port/name";
/// A request that cannot have a connection by then is better refused.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the database is probed for readiness.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// A database that does not answer by then is down.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// Seconds after which a client may try again when the database could not be reached.
const RETRY_AFTER: u32 = 2;

/// A pool that connects when it is first used.
pub fn pool(service: &str, args: &DatabaseArgs) -> anyhow::Result<PgPool> {
    let url = args.database_url.expose_secret();
    anyhow::ensure!(
        url.starts_with("postgres://") || url.starts_with("postgresql://"),
        BAD_URL
    );
    let options = PgConnectOptions::from_str(url)
        // The text of the error may quote the URL, and so the password.
        .map_err(|_| anyhow::anyhow!(BAD_URL))?
        .application_name(service)
        // A peer that vanished must not hold locks for hours, nor a lock its waiters.
        .options([
            ("tcp_keepalives_idle", "10"),
            ("tcp_keepalives_interval", "5"),
            ("tcp_keepalives_count", "3"),
            ("tcp_user_timeout", "15000"),
            ("idle_in_transaction_session_timeout", "15000"),
            ("lock_timeout", "10000"),
            // Compiling a statement takes longer than running any of ours, and plans that rule methods out look costly
            // enough for it.
            ("jit", "off"),
        ]);
    Ok(PgPoolOptions::new()
        .max_connections(args.database_max_connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_lazy_with(options))
}

/// A pool whose database has been reached once: for a command, which has nobody to retry for.
pub async fn reached_pool(service: &str, args: &DatabaseArgs) -> anyhow::Result<PgPool> {
    let pool = pool(service, args)?;
    // Not through the pool, which would hide the cause behind its own time limit.
    PgConnection::connect_with(&pool.connect_options())
        .await
        .context("cannot connect to the database that DATABASE_URL names")?
        .close()
        .await
        .context("the database went away")?;
    Ok(pool)
}

/// Brings the schema up to date. One process migrates (advisory lock), the others wait for it.
pub async fn migrate(pool: &PgPool, migrator: &Migrator) -> anyhow::Result<()> {
    migrator
        .run(pool)
        .await
        .context("cannot migrate the database")
}

/// Keeps a service and its database together.
#[derive(Debug)]
pub struct Keeper {
    /// The database.
    pub pool: PgPool,
    /// The schema that the service needs.
    pub migrator: &'static Migrator,
    /// Whether this process may bring it up to date.
    pub migrate: bool,
    /// Cancelled when the schema is there.
    pub migrated: CancellationToken,
    /// Open while the database answers.
    pub gate: Gate,
}

impl Keeper {
    /// Migrates as soon as the database answers, then follows whether it does, until `shutdown`. Once in a process: the
    /// pool's metrics have one name.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        metrics::register_pool(self.pool.clone())?;
        loop {
            let up = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                up = self.probe() => up,
            };
            match up {
                Ok(()) => self.gate.open(),
                Err(error) => self.gate.close(&format!("{error:#}")),
            }
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(PROBE_EVERY) => {}
            }
        }
    }

    async fn probe(&self) -> anyhow::Result<()> {
        if !self.migrated.is_cancelled() {
            if self.migrate {
                migrate(&self.pool, self.migrator).await?;
            }
            self.check_schema().await?;
            self.migrated.cancel();
        }
        tokio::time::timeout(PROBE_TIMEOUT, sqlx::query("SELECT 1").execute(&self.pool))
            .await
            .context("the database does not answer")?
            .context("the database is not reachable")?;
        Ok(())
    }

    /// Later migrations are fine: N-1 runs beside N.
    async fn check_schema(&self) -> anyhow::Result<()> {
        let applied: Option<i64> =
            sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations WHERE success")
                .fetch_one(&self.pool)
                .await
                .context("the tables are missing; migrate the database first")?;
        let needed = self
            .migrator
            .iter()
            .map(|migration| migration.version)
            .max();
        anyhow::ensure!(
            applied >= needed,
            "the schema is at version {applied:?}, but {needed:?} is needed; migrate the database first"
        );
        Ok(())
    }
}

/// Starts a task once the schema is there.
#[derive(Debug, Clone)]
pub struct AfterMigration {
    /// See [`Keeper::migrated`].
    pub migrated: CancellationToken,
    /// Ends the wait, too.
    pub shutdown: CancellationToken,
}

impl AfterMigration {
    /// The task, held back.
    pub fn run<F>(&self, task: F) -> impl Future<Output = anyhow::Result<()>> + Send + use<F>
    where
        F: Future<Output = anyhow::Result<()>> + Send,
    {
        let (migrated, shutdown) = (self.migrated.clone(), self.shutdown.clone());
        async move {
            tokio::select! {
                () = shutdown.cancelled() => Ok(()),
                () = migrated.cancelled() => task.await,
            }
        }
    }
}

/// Why a batch was not stored. Either way no row of it was.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A row's content is at fault: it will be refused for ever. The code only: the database's text may quote the
    /// content.
    #[error("refused by the database: SQLSTATE {sqlstate}")]
    Content {
        /// Class 22 (data exception) or 23 (integrity constraint violation).
        sqlstate: String,
    },
    /// The database or the way to it is at fault: the same batch may succeed later.
    #[error(transparent)]
    Unavailable(sqlx::Error),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let sqlstate = error.as_database_error().and_then(DatabaseError::code);
        match sqlstate {
            Some(code) if is_content_fault(&code) => Self::Content {
                sqlstate: code.into_owned(),
            },
            _ => Self::Unavailable(error),
        }
    }
}

fn is_content_fault(sqlstate: &str) -> bool {
    sqlstate.starts_with("22") || sqlstate.starts_with("23")
}

/// Endless pauses between the tries of a statement, while the database is away.
pub fn retry_pauses() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(2))
        .without_max_times()
        .with_jitter()
        .build()
}

/// The answer for an error of the database: 503 if the same request may well succeed in a moment, else 500.
#[must_use]
pub fn problem(error: sqlx::Error) -> Problem {
    if is_unavailable(&error) {
        tracing::warn!(%error, "the database is not available");
        let detail = "the database is not available; try again";
        Problem::of(&DATABASE_UNAVAILABLE, detail).with_retry_after(RETRY_AFTER)
    } else {
        Problem::internal(&error.into())
    }
}

/// Whether the same statement may well succeed in a moment.
#[must_use]
pub fn is_unavailable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        // A connection that was cut in the middle of a message.
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| passes(&code)),
        _ => false,
    }
}

/// SQLSTATE: connection exceptions, resources, operator intervention (shutdown, start-up, a statement's limit of time),
/// deadlocks; a server that has become a read-only standby; tables that are yet to be made; a lock's limit of time.
fn passes(sqlstate: &str) -> bool {
    ["08", "53", "57", "40", "25006", "42P01", "55P03"]
        .iter()
        .any(|state| sqlstate.starts_with(state))
}

/// For statements that matter in a trace.
pub trait Traced<T>: Future<Output = sqlx::Result<T>> + Sized {
    /// Runs the statement within a span of its own, which tells if it failed. Outside of a trace there is none, since nobody
    /// would look for it.
    fn traced(
        self,
        operation: &'static str,
        table: &'static str,
    ) -> impl Future<Output = sqlx::Result<T>> {
        let span = statement_span(operation, table);
        async move {
            let result = self.instrument(span.clone()).await;
            if let Err(error) = &result {
                fail(&span, error);
            }
            result
        }
    }
}

impl<T, F: Future<Output = sqlx::Result<T>>> Traced<T> for F {}

fn fail(span: &Span, error: &sqlx::Error) {
    let code = error.as_database_error().and_then(DatabaseError::code);
    if let Some(code) = &code {
        span.record("db.response.status_code", code.as_ref());
    }
    // The word that the semantic conventions have for what has no code.
    span.record("error.type", code.as_deref().unwrap_or("_OTHER"));
    span.record("otel.status_code", "ERROR");
}

fn statement_span(operation: &'static str, table: &'static str) -> Span {
    if Span::current().is_none() {
        return Span::none();
    }
    tracing::error_span!(
        "statement",
        otel.name = format_args!("{operation} {table}"),
        otel.kind = "client",
        db.system.name = "postgresql",
        db.operation.name = operation,
        db.collection.name = table,
        db.response.status_code = tracing::field::Empty,
        error.type = tracing::field::Empty,
        otel.status_code = tracing::field::Empty,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_data_exceptions_and_constraint_violations_are_blamed_on_the_content() {
        // A NUL in a text, a number out of range, a check constraint.
        for sqlstate in ["22021", "22003", "23514"] {
            assert!(is_content_fault(sqlstate), "{sqlstate}");
        }
        // Deadlock, read-only after a failover, missing table, disk full, shutdown.
        for sqlstate in ["40P01", "25006", "42P01", "53100", "57P01"] {
            assert!(!is_content_fault(sqlstate), "{sqlstate}");
        }
    }

    #[test]
    fn a_limit_of_time_and_a_deadlock_pass_and_a_violation_does_not() {
        for sqlstate in ["55P03", "57014", "40P01", "53300", "08006"] {
            assert!(passes(sqlstate), "{sqlstate}");
        }
        for sqlstate in ["55000", "23505", "22021", "42601"] {
            assert!(!passes(sqlstate), "{sqlstate}");
        }
    }

    #[test]
    fn an_error_of_the_connection_is_not_blamed_on_the_content() {
        let error = StoreError::from(sqlx::Error::PoolTimedOut);
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    }
}
