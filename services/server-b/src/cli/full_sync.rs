//! `server-b full-sync`: asks the running server B for a full sync and follows it.

use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use service_runtime::config::DatabaseArgs;
use sqlx::PgPool;
use uuid::Uuid;

use super::connect_migrated;
use super::progress::Progress;
use crate::actor::Actor;
use crate::full_sync::{self, SyncStatus};

pub const EXAMPLES: &str = "Examples:
  server-b full-sync                  # DATABASE_URL names the database
  server-b full-sync --timeout 60     # exit with 1 when it takes longer than a minute

The users are published by a running `server-b serve` that uses the same database.";

const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// A running server B takes a request much sooner.
const TAKEN_WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub struct FullSyncArgs {
    /// Seconds to wait for the end; the sync itself goes on when they are over
    #[arg(
        long,
        env = "FULL_SYNC_TIMEOUT",
        default_value_t = 900,
        value_name = "SECONDS"
    )]
    timeout: u64,

    #[command(flatten)]
    database: DatabaseArgs,
}

pub async fn run(args: FullSyncArgs) -> anyhow::Result<()> {
    let started = Instant::now();
    let pool = connect_migrated(&args.database).await?;
    let sync_id = full_sync::request(&pool, &Actor::command_line())
        .await
        .context("cannot ask for a full sync")?;
    eprintln!("full sync {sync_id} requested");
    let limit = Duration::from_secs(args.timeout);
    let done = tokio::time::timeout(limit, follow(&pool, sync_id))
        .await
        .map_err(|_| {
            anyhow!(
                "full sync {sync_id} did not finish within {} s; it goes on when a running server-b \
                 can serve it",
                args.timeout
            )
        })??;
    println!(
        "full sync {sync_id} completed: {} users published in {:.1} s",
        done.users_published,
        started.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Polls the row until the sync has completed; an error if it failed.
async fn follow(pool: &PgPool, sync_id: Uuid) -> anyhow::Result<SyncStatus> {
    let started = Instant::now();
    let mut progress = Progress::new("full sync", "users");
    let mut told_untaken = false;
    loop {
        let status = full_sync::find(pool, sync_id)
            .await
            .context("cannot read how far the full sync is")?
            .context("the full sync's row is gone from the database")?;
        match status.status.as_str() {
            "completed" => return Ok(status),
            "failed" => bail!(
                "full sync {sync_id} failed: {}",
                status.error.as_deref().unwrap_or("no reason is recorded")
            ),
            "requested" if !told_untaken && started.elapsed() >= TAKEN_WITHIN => {
                told_untaken = true;
                progress.note(&format!(
                    "no server-b has taken it for {} s: is `server-b serve` running on this database \
                     and connected to RabbitMQ? Still waiting",
                    TAKEN_WITHIN.as_secs()
                ));
            }
            "requested" => {}
            _ => progress.set(count(status.users_published), status.users_total.map(count)),
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// The database counts in signed numbers.
fn count(users: i64) -> u64 {
    u64::try_from(users).unwrap_or(0)
}
