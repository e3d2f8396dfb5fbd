//! `server-b keys …`: API keys, and the keys that seal them.

use anyhow::ensure;
use clap::{Args, Subcommand};
use comfy_table::Table;
use serde::Serialize;
use service_runtime::config::DatabaseArgs;

use super::connect_migrated;
use super::output::{Output, columns, print_json, print_list, time_text};
use super::progress::Progress;
use super::replicas::WaitArgs;
use super::users::{find, users};
use crate::actor::Actor;
use crate::keys::{KeyArgs, KeyRing};
use crate::reseal::{self, SealedWith};
use crate::users::UserKey;

pub const EXAMPLES: &str = "Examples:
  server-b keys list alice
  server-b keys revoke alice 17
  server-b keys reseal --check                 # how many keys each sealing key seals
  server-b keys reseal                         # with the first line of KEY_SEALING_KEY_FILE";

#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// List the API keys of a user; only how they begin is known
    List(ListArgs),
    /// Refuse one API key of a user from now on
    Revoke(RevokeArgs),
    /// Seal every API key with the first sealing key, so that the others can be dropped; replicas are not concerned
    Reseal(ResealArgs),
}

impl KeysCommand {
    /// As it is typed.
    pub fn name(&self) -> &'static str {
        match self {
            Self::List(_) => "list",
            Self::Revoke(_) => "revoke",
            Self::Reseal(_) => "reseal",
        }
    }
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// The user's id, or its username
    user: String,
    /// How the list is printed
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    output: Output,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// The user's id, or its username
    user: String,
    /// As `list` shows it
    key_id: i64,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Debug, Args)]
pub struct ResealArgs {
    /// Change nothing: only tell how many keys each sealing key seals
    #[arg(long)]
    check: bool,
    /// How the result is printed
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    output: Output,
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    keys: KeyArgs,
}

pub async fn run(command: KeysCommand) -> anyhow::Result<()> {
    match command {
        KeysCommand::List(args) => list(args).await,
        KeysCommand::Revoke(args) => revoke(args).await,
        KeysCommand::Reseal(args) => reseal(args).await,
    }
}

async fn list(args: ListArgs) -> anyhow::Result<()> {
    let users = users(&connect_migrated(&args.database).await?);
    let keys = users.keys(find(&users, &args.user).await?).await?;
    print_list(args.output, &keys, "keys", key_table)
}

async fn revoke(args: RevokeArgs) -> anyhow::Result<()> {
    let pool = connect_migrated(&args.database).await?;
    let users = users(&pool);
    let user_id = find(&users, &args.user).await?;
    users.revoke_key(user_id, args.key_id, None).await?;
    println!(
        "key {} of user {user_id} is refused from now on",
        args.key_id
    );
    args.wait.wait(&pool).await
}

/// What a reseal came to.
#[derive(Serialize)]
struct Report {
    resealed: u64,
    unopened: u64,
    sealed_with: Vec<SealedWith>,
}

async fn reseal(args: ResealArgs) -> anyhow::Result<()> {
    let ring = KeyRing::from_args(&args.keys)?;
    let pool = connect_migrated(&args.database).await?;
    let done = if args.check {
        reseal::Outcome::default()
    } else {
        let mut progress = Progress::new("reseal", "keys");
        let told = |done, total| progress.set(done, Some(total));
        reseal::reseal(&pool, &ring, &Actor::command_line(), told).await?
    };
    let result = Report {
        resealed: done.resealed,
        unopened: done.unopened,
        sealed_with: reseal::sealed_with(&pool).await?,
    };
    match args.output {
        Output::Json => print_json(&result)?,
        Output::Table => {
            if !args.check {
                println!("{} keys resealed", result.resealed);
            }
            println!("{}", ring_table(&result));
        }
    }
    ensure!(
        done.unopened == 0,
        "{} keys could not be opened and stay as they are: the log says why",
        done.unopened
    );
    Ok(())
}

pub fn key_table(keys: &[UserKey]) -> Table {
    let mut table = columns([
        "KEY_ID",
        "KEY",
        "CURRENT",
        "EXPIRES_AT",
        "LAST_USED_AT",
        "CREATED_AT",
        "SEALED_WITH",
    ]);
    for key in keys {
        table.add_row([
            key.key_id.to_string(),
            format!("{}…", key.prefix),
            key.current.to_string(),
            time_text(key.expires_at),
            time_text(key.last_used_at),
            time_text(Some(key.created_at)),
            key.sealing_key
                .map_or("none".to_owned(), |id| id.to_string()),
        ]);
    }
    table
}

fn ring_table(result: &Report) -> Table {
    let mut table = columns(["SEALING_KEY", "API_KEYS", "WAITING_EVENTS"]);
    for row in &result.sealed_with {
        table.add_row([
            row.key_id.map_or("none".to_owned(), |id| id.to_string()),
            row.api_keys.to_string(),
            row.events.to_string(),
        ]);
    }
    table
}
