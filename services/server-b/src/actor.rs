//! Who changes something, and the transaction in which it is done. The database writes the log of changes itself, and
//! learns from the transaction who it is and to which trace it belongs.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use service_runtime::trace::TraceContext;
use sqlx::{PgConnection, PgPool, Postgres, Transaction};
use tokio::task::JoinError;
use tracing::{Instrument, Span};

/// Who changes something, as the audit log names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor(Arc<str>);

impl Actor {
    /// Whoever holds the token of that name.
    #[must_use]
    pub fn token(name: &str) -> Self {
        Self(format!("token:{name}").into())
    }

    /// The operating system's user, on a command line.
    #[must_use]
    pub fn command_line() -> Self {
        Self(format!("cli:{}", user_name()).into())
    }

    /// As the log has it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a transaction did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum TransactionError {
    /// The database refused, or could not be reached.
    #[error("the database could not do it: {0}")]
    Database(#[from] sqlx::Error),
    /// It panicked, or the process is stopping.
    #[error("the transaction was aborted")]
    Aborted(#[from] JoinError),
}

/// Of the process, not of the environment, which says what one likes. In a container the number may have no name.
fn user_name() -> String {
    let Ok(own) = fs::metadata("/proc/self") else {
        return "unknown".to_owned();
    };
    let uid = own.uid().to_string();
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1) == Some(&uid)).then(|| name.to_owned())
    });
    name.unwrap_or(uid)
}

/// Runs `work` in a transaction, in a task of its own that goes on when the caller goes away: a
/// cancelled `begin` can leave a pooled connection broken (sqlx 0.9). The current trace goes along to the
/// outbox, and with the actor to the audit log.
pub(crate) async fn in_transaction<T, E, F>(pool: &PgPool, actor: &Actor, work: F) -> Result<T, E>
where
    T: Send + 'static,
    E: From<sqlx::Error> + From<JoinError> + Send + 'static,
    F: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T, E>> + Send + 'static,
{
    let (pool, actor) = (pool.clone(), actor.clone());
    let task = async move {
        let mut tx = begin(&pool, &actor).await?;
        let done = work(&mut tx).await?;
        tx.commit().await?;
        Ok(done)
    };
    tokio::spawn(task.instrument(Span::current())).await?
}

/// Begins a transaction of the actor; not where the caller may be cancelled, see [`in_transaction`].
pub(crate) async fn begin(
    pool: &PgPool,
    actor: &Actor,
) -> sqlx::Result<Transaction<'static, Postgres>> {
    let mut tx = pool.begin().await?;
    let trace = TraceContext::current();
    sqlx::query(
        "SELECT set_config('identity_sync.actor', $1, true),
                set_config('identity_sync.traceparent', coalesce($2, ''), true),
                set_config('identity_sync.tracestate', coalesce($3, ''), true)",
    )
    .bind(actor.as_str())
    .bind(trace.traceparent)
    .bind(trace.tracestate)
    .execute(&mut *tx)
    .await?;
    Ok(tx)
}
