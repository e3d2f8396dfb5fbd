//! `server-b users …`: straight to the database, without a running server.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use comfy_table::{Table, presets};
use serde::Serialize;
use service_runtime::config::DatabaseArgs;
use time::format_description::well_known::Rfc3339;
use wire_contract::UserId;

use super::connect_migrated;
use super::import::{self, ImportArgs};
use super::replicas::WaitArgs;
use crate::keys::{KeyArgs, KeyRing, NewKey};
use crate::users::{CreatedUser, NewUser, User, UserChanges, Users};

pub const EXAMPLES: &str = "Examples:
  server-b users create alice --daily-quota 5000
  server-b users list --username alice --output json
  server-b users update 1 --active false
  server-b users rotate-key 1 --overlap-seconds 3600
  server-b users import users.csv --generated-keys-out keys.csv";

#[derive(Debug, Subcommand)]
pub enum UsersCommand {
    /// Create a user; its API key is shown once
    Create(CreateArgs),
    /// List users in the order of their ids; of keys only the prefix is known
    List(ListArgs),
    /// Change a user
    Update(UpdateArgs),
    /// Delete a user and its keys
    Delete(DeleteArgs),
    /// Give a user another API key, which is shown once
    RotateKey(RotateKeyArgs),
    /// Create (or update) many users from a CSV file
    #[command(after_help = import::EXAMPLES)]
    Import(ImportArgs),
}

impl UsersCommand {
    /// As it is typed.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::List(_) => "list",
            Self::Update(_) => "update",
            Self::Delete(_) => "delete",
            Self::RotateKey(_) => "rotate-key",
            Self::Import(_) => "import",
        }
    }
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Table,
    /// For programs
    Json,
}

#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Unique name, 1 to 150 characters
    username: String,
    /// SMS segments that the user may send a UTC day
    #[arg(long, default_value_t = NewUser::DAILY_QUOTA, value_name = "N")]
    daily_quota: i32,
    /// Refuse the user's sends for now
    #[arg(long)]
    inactive: bool,
    /// File with an existing API key to import, `-` for stdin; without it one is generated
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// How the result is printed
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    output: Output,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    keys: KeyArgs,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only the user of exactly this name
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    /// Users to list at most
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// List the users after this id: where the previous page ended
    #[arg(long, value_name = "USER_ID")]
    cursor: Option<UserId>,
    /// How the result is printed
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    output: Output,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Debug, Args)]
pub struct UpdateArgs {
    /// The user's id, as `server-b users list` shows it
    user_id: UserId,
    #[command(flatten)]
    changes: ChangeArgs,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct ChangeArgs {
    /// Another unique name
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    /// Whether the user's sends are accepted
    #[arg(long, value_name = "BOOL")]
    active: Option<bool>,
    /// SMS segments that the user may send a UTC day
    #[arg(long, value_name = "N")]
    daily_quota: Option<i32>,
}

#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// The user's id, as `server-b users list` shows it
    user_id: UserId,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Debug, Args)]
pub struct RotateKeyArgs {
    /// The user's id, as `server-b users list` shows it
    user_id: UserId,
    /// Accept the replaced key that much longer, 30 days at most; without it, all older keys are
    /// refused at once
    #[arg(long, value_name = "SECONDS")]
    overlap_seconds: Option<u64>,
    /// File with an existing API key to import, `-` for stdin; without it one is generated
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    keys: KeyArgs,
}

pub async fn run(command: UsersCommand) -> anyhow::Result<()> {
    match command {
        UsersCommand::Create(args) => create(args).await,
        UsersCommand::List(args) => list(args).await,
        UsersCommand::Update(args) => update(args).await,
        UsersCommand::Delete(args) => delete(args).await,
        UsersCommand::RotateKey(args) => rotate_key(args).await,
        UsersCommand::Import(args) => import::run(args).await,
    }
}

async fn create(args: CreateArgs) -> anyhow::Result<()> {
    let keys = KeyRing::from_args(&args.keys)?;
    let api_key = given_or_generated(args.api_key_file.as_deref())?;
    let pool = connect_migrated(&args.database).await?;
    let users = Users::new(pool.clone());
    let new = NewUser {
        username: args.username,
        is_active: !args.inactive,
        daily_quota: args.daily_quota,
        api_key: api_key.clone(),
    };
    let user = users.create(&keys, new).await?;
    match args.output {
        Output::Json => print_json(&CreatedUser::new(user, &api_key))?,
        Output::Table => {
            println!("{}", table(&[user]));
            println!("\nAPI key, shown only now: {}", api_key.expose());
        }
    }
    args.wait.wait(&pool).await
}

async fn list(args: ListArgs) -> anyhow::Result<()> {
    let users = Users::new(connect_migrated(&args.database).await?);
    let page = users
        .list(args.cursor, args.limit, args.username.as_deref())
        .await?;
    if args.output == Output::Json {
        return print_json(&page);
    }
    println!("{}", table(&page.users));
    if let Some(cursor) = page.next_cursor {
        eprintln!("there are more: --cursor {cursor}");
    }
    Ok(())
}

async fn update(args: UpdateArgs) -> anyhow::Result<()> {
    let pool = connect_migrated(&args.database).await?;
    let users = Users::new(pool.clone());
    let changes = UserChanges {
        username: args.changes.username,
        is_active: args.changes.active,
        daily_quota: args.changes.daily_quota,
    };
    let user = users.update(args.user_id, changes, None).await?;
    println!("{}", table(&[user]));
    args.wait.wait(&pool).await
}

async fn delete(args: DeleteArgs) -> anyhow::Result<()> {
    let pool = connect_migrated(&args.database).await?;
    Users::new(pool.clone()).delete(args.user_id, None).await?;
    println!("user {} deleted", args.user_id);
    args.wait.wait(&pool).await
}

/// Only the key goes to stdout, for scripts.
async fn rotate_key(args: RotateKeyArgs) -> anyhow::Result<()> {
    let keys = KeyRing::from_args(&args.keys)?;
    let api_key = given_or_generated(args.api_key_file.as_deref())?;
    let pool = connect_migrated(&args.database).await?;
    let users = Users::new(pool.clone());
    let overlap = args.overlap_seconds.map(Duration::from_secs);
    let user = users
        .rotate_key(&keys, args.user_id, api_key.clone(), overlap, None)
        .await?;
    eprintln!(
        "API key of user {} ({}), shown only now:",
        user.user_id, user.username
    );
    println!("{}", api_key.expose());
    args.wait.wait(&pool).await
}

fn given_or_generated(file: Option<&Path>) -> anyhow::Result<NewKey> {
    let Some(path) = file else {
        return Ok(NewKey::generate());
    };
    let mut text = String::new();
    open(path)?
        .read_to_string(&mut text)
        .with_context(|| format!("cannot read an API key from {}", path.display()))?;
    NewKey::import(text.trim_end_matches(['\r', '\n']).into())
        .with_context(|| format!("the API key in {} cannot be imported", path.display()))
}

/// A file, or stdin for `-`.
pub fn open(path: &Path) -> anyhow::Result<Box<dyn Read>> {
    if path == Path::new("-") {
        return Ok(Box::new(std::io::stdin()));
    }
    let file = std::fs::File::open(path);
    Ok(Box::new(file.with_context(|| {
        format!("cannot open {}", path.display())
    })?))
}

pub fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

fn table(users: &[User]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header([
        "USER_ID",
        "USERNAME",
        "ACTIVE",
        "DAILY_QUOTA",
        "KEY",
        "VERSION",
        "UPDATED_AT",
    ]);
    for user in users {
        table.add_row([
            user.user_id.to_string(),
            user.username.clone(),
            user.is_active.to_string(),
            user.daily_quota.to_string(),
            user.key_prefix
                .as_ref()
                .map_or("none".to_owned(), |prefix| format!("{prefix}…")),
            user.version.to_string(),
            user.updated_at.format(&Rfc3339).unwrap_or_default(),
        ]);
    }
    table
}
