//! `server-b users …`: straight to the database, without a running server.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, Subcommand, value_parser};
use comfy_table::Table;
use serde::Serialize;
use service_runtime::config::DatabaseArgs;
use sqlx::PgPool;
use time::OffsetDateTime;
use wire_contract::UserId;

use super::connect_migrated;
use super::import::{self, ImportArgs};
use super::keys::key_table;
use super::output::{Output, columns, open, parse_time, print_json, time_text};
use super::replicas::WaitArgs;
use crate::actor::Actor;
use crate::keys::{KeyArgs, KeyRing, NewKey};
use crate::users::{
    CreatedUser, IfVersion, NewUser, Rotation, User, UserChanges, UserFilter, UserKey, Users,
};

pub const EXAMPLES: &str = "Examples:
  server-b users create alice --daily-quota 5000
  server-b users list --username-prefix al --active true --output json
  server-b users show alice                    # a username will do where it is nobody's user_id
  server-b users update 1 --active false --if-version 17
  server-b users rotate-key 1 --overlap-seconds 3600
  server-b users import users.csv --generated-keys-out keys.csv";

#[derive(Debug, Subcommand)]
pub enum UsersCommand {
    /// Create a user; its API key is shown once
    Create(CreateArgs),
    /// List users in the order of their ids; of keys only the prefix is known
    List(ListArgs),
    /// Show one user with its keys
    Show(ShowArgs),
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
            Self::Show(_) => "show",
            Self::Update(_) => "update",
            Self::Delete(_) => "delete",
            Self::RotateKey(_) => "rotate-key",
            Self::Import(_) => "import",
        }
    }
}

#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Unique name, 1 to 150 characters
    username: String,
    /// SMS segments that the user may send a UTC day
    #[arg(long, default_value_t = NewUser::DAILY_QUOTA, value_name = "N", allow_negative_numbers = true,
        value_parser = value_parser!(i32).range(0..))]
    daily_quota: i32,
    /// Refuse the user's sends for now
    #[arg(long)]
    inactive: bool,
    /// File with an existing API key to import, `-` for stdin; without it one is generated
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Accept the key only until then, such as 2027-01-31T00:00:00Z; without it, until it is replaced
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    key_expires_at: Option<OffsetDateTime>,
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
    /// Only users whose name begins so
    #[arg(long, value_name = "PREFIX")]
    username_prefix: Option<String>,
    /// Only users whose sends are accepted, or are not
    #[arg(long, value_name = "BOOL")]
    active: Option<bool>,
    /// Only users created at this time or later, such as 2027-01-31T00:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    created_after: Option<OffsetDateTime>,
    /// Only users created before this time
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    created_before: Option<OffsetDateTime>,
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
    /// The user's id, or its username
    user: String,
    #[command(flatten)]
    changes: ChangeArgs,
    /// Only if the user still has this version
    #[arg(long, value_name = "VERSION")]
    if_version: Option<i64>,
    /// How the result is printed
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    output: Output,
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
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = value_parser!(i32).range(0..))]
    daily_quota: Option<i32>,
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The user's id, or its username
    user: String,
    /// How the result is printed
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    output: Output,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// The user's id, or its username
    user: String,
    /// Only if the user still has this version
    #[arg(long, value_name = "VERSION")]
    if_version: Option<i64>,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Debug, Args)]
pub struct RotateKeyArgs {
    /// The user's id, or its username
    user: String,
    /// Accept older keys that much longer, 30 days at most; without it, they are refused at once
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    overlap_seconds: Option<u64>,
    /// File with an existing API key to import, `-` for stdin; without it one is generated
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Accept the key only until then, such as 2027-01-31T00:00:00Z; without it, until it is replaced
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    key_expires_at: Option<OffsetDateTime>,
    /// Only if the user still has this version
    #[arg(long, value_name = "VERSION")]
    if_version: Option<i64>,
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
        UsersCommand::Show(args) => show(args).await,
        UsersCommand::Update(args) => update(args).await,
        UsersCommand::Delete(args) => delete(args).await,
        UsersCommand::RotateKey(args) => rotate_key(args).await,
        UsersCommand::Import(args) => import::run(args).await,
    }
}

/// The users, changed in the name of whoever runs the command.
pub fn users(pool: &PgPool) -> Users {
    Users::new(pool.clone(), Actor::command_line())
}

/// The user that was meant: a name that is another user's id is refused.
pub async fn find(users: &Users, text: &str) -> anyhow::Result<UserId> {
    let named = users.named(text).await?.map(|user| user.user_id);
    match (text.parse(), named) {
        (Ok(user_id), Some(named)) if user_id != named => bail!(
            "`{text}` may be user {user_id} or the one of that name, which is user {named}: give the user_id"
        ),
        (Ok(user_id), _) | (Err(_), Some(user_id)) => Ok(user_id),
        (Err(_), None) => bail!("there is no user of the name `{text}`"),
    }
}

async fn create(args: CreateArgs) -> anyhow::Result<()> {
    let keys = KeyRing::from_args(&args.keys)?;
    let api_key = given_or_generated(args.api_key_file.as_deref())?;
    let pool = connect_migrated(&args.database).await?;
    let new = NewUser {
        username: args.username,
        is_active: !args.inactive,
        daily_quota: args.daily_quota,
        api_key: api_key.clone(),
        key_expires_at: args.key_expires_at,
    };
    let user = users(&pool).create(&keys, new).await?;
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
    let pool = connect_migrated(&args.database).await?;
    let filter = UserFilter {
        username: args.username,
        username_prefix: args.username_prefix,
        is_active: args.active,
        created_after: args.created_after,
        created_before: args.created_before,
    };
    let page = users(&pool).list(args.cursor, args.limit, &filter).await?;
    if args.output == Output::Json {
        return print_json(&page);
    }
    println!("{}", table(&page.users));
    if let Some(cursor) = page.next_cursor {
        eprintln!("there are more: --cursor {cursor}");
    }
    Ok(())
}

/// A user and its keys.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    user: User,
    keys: Vec<UserKey>,
}

async fn show(args: ShowArgs) -> anyhow::Result<()> {
    let users = users(&connect_migrated(&args.database).await?);
    let user_id = find(&users, &args.user).await?;
    let (user, keys) = (users.get(user_id).await?, users.keys(user_id).await?);
    if args.output == Output::Json {
        return print_json(&Shown { user, keys });
    }
    println!("{}\n\n{}", table(&[user]), key_table(&keys));
    Ok(())
}

async fn update(args: UpdateArgs) -> anyhow::Result<()> {
    let pool = connect_migrated(&args.database).await?;
    let users = users(&pool);
    let changes = UserChanges {
        username: args.changes.username,
        is_active: args.changes.active,
        daily_quota: args.changes.daily_quota,
    };
    let user_id = find(&users, &args.user).await?;
    let user = users
        .update(user_id, changes, only(args.if_version))
        .await?;
    match args.output {
        Output::Json => print_json(&user)?,
        Output::Table => println!("{}", table(&[user])),
    }
    args.wait.wait(&pool).await
}

async fn delete(args: DeleteArgs) -> anyhow::Result<()> {
    let pool = connect_migrated(&args.database).await?;
    let users = users(&pool);
    let user_id = find(&users, &args.user).await?;
    users.delete(user_id, only(args.if_version)).await?;
    println!("user {user_id} deleted");
    args.wait.wait(&pool).await
}

/// Only the key goes to stdout, for scripts.
async fn rotate_key(args: RotateKeyArgs) -> anyhow::Result<()> {
    let keys = KeyRing::from_args(&args.keys)?;
    let api_key = given_or_generated(args.api_key_file.as_deref())?;
    let pool = connect_migrated(&args.database).await?;
    let users = users(&pool);
    let rotation = Rotation {
        api_key: api_key.clone(),
        overlap_seconds: args.overlap_seconds.unwrap_or(0),
        key_expires_at: args.key_expires_at,
    };
    let user_id = find(&users, &args.user).await?;
    let user = users
        .rotate_key(&keys, user_id, rotation, only(args.if_version))
        .await?;
    eprintln!(
        "API key of user {} ({}), shown only now:",
        user.user_id, user.username
    );
    println!("{}", api_key.expose());
    args.wait.wait(&pool).await
}

fn only(version: Option<i64>) -> IfVersion {
    version.map(|version| vec![version])
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

fn table(users: &[User]) -> Table {
    let mut table = columns([
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
            time_text(Some(user.updated_at)),
        ]);
    }
    table
}
