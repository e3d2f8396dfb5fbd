//! `server-b replicas`, and `--wait` of the commands that change users.

use std::time::Duration;

use clap::Args;
use comfy_table::Table;
use service_runtime::config::DatabaseArgs;
use sqlx::PgPool;
use time::format_description::well_known::Rfc3339;

use super::connect_migrated;
use super::output::{Output, columns, print_json};
use crate::replicas::{self, LiveReplica, Until, Waited};

pub const EXAMPLES: &str = "Examples:
  server-b replicas
  server-b replicas --wait --output json";

#[derive(Debug, Args)]
pub struct ReplicasArgs {
    /// Return once every live replica has proven that its cache equals the database as it is now
    #[arg(long)]
    wait: bool,
    /// Seconds that --wait waits; then those that are not there are named and the exit code is 1
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    wait_seconds: u64,
    /// How the result is printed
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    output: Output,
    #[command(flatten)]
    database: DatabaseArgs,
}

/// `--wait` of a command that changes users.
#[derive(Debug, Args)]
pub struct WaitArgs {
    /// Return once every live replica has applied the change
    #[arg(long)]
    wait: bool,
    /// Seconds that --wait waits; then those that have not applied it are named and the exit code is 1
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    wait_seconds: u64,
}

impl WaitArgs {
    /// Waits if that was asked for.
    pub async fn wait(&self, pool: &PgPool) -> anyhow::Result<()> {
        if !self.wait {
            return Ok(());
        }
        let deadline = Duration::from_secs(self.wait_seconds);
        let waited = replicas::wait(pool, Until::Applied, deadline).await?;
        eprintln!("applied by {} replicas", waited.reached.len());
        refuse_waiting(&waited, "applied the change")
    }
}

pub async fn run(args: ReplicasArgs) -> anyhow::Result<()> {
    let pool = connect_migrated(&args.database).await?;
    let waited = if args.wait {
        let deadline = Duration::from_secs(args.wait_seconds);
        replicas::wait(&pool, Until::Proven, deadline).await?
    } else {
        Waited::default()
    };
    let live = replicas::live(&pool).await?;
    if args.output == Output::Json {
        print_json(&live)?;
    } else if live.is_empty() {
        println!("no replica has reported lately");
    } else {
        println!("{}", table(&live));
    }
    refuse_waiting(&waited, "proven itself")
}

fn refuse_waiting(waited: &Waited, what: &str) -> anyhow::Result<()> {
    if let Some(reason) = waited.unknown {
        anyhow::bail!("not known whether every replica has {what}: {reason}");
    }
    anyhow::ensure!(
        waited.waiting.is_empty(),
        "not every replica has {what} in time; still waiting for: {}",
        waited.waiting.join(", ")
    );
    Ok(())
}

fn table(replicas: &[LiveReplica]) -> Table {
    let mut table = columns([
        "INSTANCE",
        "READY",
        "APPLIED",
        "PROVEN",
        "PROVEN_SINCE",
        "USERS",
        "HEARD_AT",
    ]);
    for replica in replicas {
        let proven = replica.proven_epoch.zip(replica.proven_sequence);
        table.add_row([
            replica.instance.clone(),
            replica.ready.to_string(),
            format!("{}/{}", replica.applied_epoch, replica.applied_sequence),
            proven.map_or("no".to_owned(), |(epoch, sequence)| {
                format!("{epoch}/{sequence}")
            }),
            replica
                .proven_since
                .and_then(|since| since.format(&Rfc3339).ok())
                .unwrap_or_default(),
            replica.users.to_string(),
            replica.received_at.format(&Rfc3339).unwrap_or_default(),
        ]);
    }
    table
}
