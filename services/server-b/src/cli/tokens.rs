//! `server-b tokens …`: who may call the admin API.

use clap::{Args, Subcommand};
use comfy_table::Table;
use service_runtime::config::DatabaseArgs;
use time::OffsetDateTime;

use super::connect_migrated;
use super::output::{Output, columns, parse_time, print_json, print_list, time_text};
use crate::actor::Actor;
use crate::tokens::{Role, Token, Tokens};

pub const EXAMPLES: &str = "Examples:
  server-b tokens create dashboards --role reader
  server-b tokens create deploy --role admin --expires-at 2027-01-31T00:00:00Z
  server-b tokens revoke deploy                # refused from the next request on

The token that ADMIN_TOKEN or ADMIN_TOKEN_FILE gives is not among them; its name in the audit log is `bootstrap`.";

#[derive(Debug, Subcommand)]
pub enum TokensCommand {
    /// Make a token; it is shown once
    Create(CreateArgs),
    /// List all tokens, the revoked ones, too
    List(ListArgs),
    /// Refuse a token from now on
    Revoke(RevokeArgs),
}

impl TokensCommand {
    /// As it is typed.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::List(_) => "list",
            Self::Revoke(_) => "revoke",
        }
    }
}

#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Unique name, by which the audit log knows it: letters, digits, `.`, `_`, `-`
    name: String,
    /// What it may do
    #[arg(long, value_name = "ROLE")]
    role: Role,
    /// Accept it only until then, such as 2027-01-31T00:00:00Z; without it, until it is revoked
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    expires_at: Option<OffsetDateTime>,
    /// How the result is printed
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    output: Output,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// How the list is printed
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    output: Output,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// As `list` shows it
    name: String,
    #[command(flatten)]
    database: DatabaseArgs,
}

pub async fn run(command: TokensCommand) -> anyhow::Result<()> {
    match command {
        TokensCommand::Create(args) => create(args).await,
        TokensCommand::List(args) => list(args).await,
        TokensCommand::Revoke(args) => revoke(args).await,
    }
}

async fn open(args: &DatabaseArgs) -> anyhow::Result<Tokens> {
    Ok(Tokens::new(
        connect_migrated(args).await?,
        Actor::command_line(),
    ))
}

/// Only the token goes to stdout, for scripts.
async fn create(args: CreateArgs) -> anyhow::Result<()> {
    let tokens = open(&args.database).await?;
    let created = tokens.create(args.name, args.role, args.expires_at).await?;
    if args.output == Output::Json {
        return print_json(&created);
    }
    eprintln!(
        "Token {} with the role {}, shown only now:",
        created.token.name, created.token.role
    );
    println!("{}", created.secret);
    Ok(())
}

async fn list(args: ListArgs) -> anyhow::Result<()> {
    let tokens = open(&args.database).await?.list().await?;
    print_list(args.output, &tokens, "tokens", table)
}

async fn revoke(args: RevokeArgs) -> anyhow::Result<()> {
    let token = open(&args.database).await?.revoke(args.name).await?;
    println!("token {} is refused from now on", token.name);
    Ok(())
}

fn table(tokens: &[Token]) -> Table {
    let mut table = columns([
        "NAME",
        "ROLE",
        "TOKEN",
        "CREATED_AT",
        "EXPIRES_AT",
        "LAST_USED_AT",
        "REVOKED_AT",
    ]);
    for token in tokens {
        table.add_row([
            token.name.clone(),
            token.role.to_string(),
            format!("{}…", token.prefix),
            time_text(Some(token.created_at)),
            time_text(token.expires_at),
            time_text(token.last_used_at),
            time_text(token.revoked_at),
        ]);
    }
    table
}
