//! `user-service dead-letters …`.

use anyhow::ensure;
use clap::{Args, Subcommand, ValueEnum};
use comfy_table::{Table, presets};
use lapin::Connection;
use service_runtime::amqp::{Connector, give_back, waiting};
use service_runtime::config::AmqpArgs;
use time::format_description::well_known::Rfc3339;

use crate::dead_letters::{self, DeadLetter};
use crate::topology::{QueueArgs, declare_dead};

pub const EXAMPLES: &str = "Examples:
  user-service dead-letters list --limit 20
  user-service dead-letters requeue        # after what was wrong has been mended
  user-service dead-letters purge --all";

#[derive(Debug, Subcommand)]
pub enum DeadLettersCommand {
    /// Show the oldest dead letters with their reasons, without names and addresses
    List(ListArgs),
    /// Give dead letters back to the queue, the oldest first
    Requeue(RequeueArgs),
    /// Throw all dead letters away
    Purge(PurgeArgs),
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Dead letters to show at most
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    limit: u16,
    /// How they are printed
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    output: Output,
    #[command(flatten)]
    broker: BrokerArgs,
}

#[derive(Debug, Args)]
pub struct RequeueArgs {
    /// Dead letters to give back at most; all that are there now if not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    #[command(flatten)]
    broker: BrokerArgs,
}

#[derive(Debug, Args)]
pub struct PurgeArgs {
    /// Every letter that is there now
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    broker: BrokerArgs,
}

#[derive(Debug, Args)]
struct BrokerArgs {
    #[command(flatten)]
    amqp: AmqpArgs,
    #[command(flatten)]
    names: QueueArgs,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Table,
    /// For programs
    Json,
}

impl BrokerArgs {
    async fn connect(&self) -> anyhow::Result<Connection> {
        Connector::new("user-service", &self.amqp)?
            .for_any_message()
            .connect("dead letters")
            .await
    }
}

pub async fn run(command: DeadLettersCommand) -> anyhow::Result<()> {
    match command {
        DeadLettersCommand::List(args) => list(args).await,
        DeadLettersCommand::Requeue(args) => requeue(args).await,
        DeadLettersCommand::Purge(args) => purge(args).await,
    }
}

async fn list(args: ListArgs) -> anyhow::Result<()> {
    let BrokerArgs { names, .. } = &args.broker;
    let connection = args.broker.connect().await?;
    let channel = connection.create_channel().await?;
    declare_dead(&channel, names).await?;
    let dead = &names.user_created_dead_queue;
    let all = waiting(&channel, dead).await?;
    let letters = dead_letters::list(&channel, dead, all, args.limit).await?;
    // Before they are printed, which may take long.
    give_back(&connection, &channel, dead, all).await?;
    if args.output == Output::Json {
        println!("{}", serde_json::to_string_pretty(&letters)?);
        return Ok(());
    }
    println!("{}", table(&letters));
    eprintln!("{} of {all} dead letters in {dead}", letters.len());
    Ok(())
}

async fn requeue(args: RequeueArgs) -> anyhow::Result<()> {
    let BrokerArgs { names, .. } = &args.broker;
    let connection = args.broker.connect().await?;
    let channel = connection.create_channel().await?;
    declare_dead(&channel, names).await?;
    let (dead, queue) = (&names.user_created_dead_queue, &names.user_created_queue);
    // Those that are added meanwhile are left alone.
    let all = waiting(&channel, dead).await?;
    let wanted = args.limit.map_or(all, |limit| limit.min(all));
    let done = dead_letters::requeue(&channel, dead, queue, wanted).await?;
    println!("{done} messages given back to {queue}");
    give_back(&connection, &channel, dead, all - done).await
}

async fn purge(args: PurgeArgs) -> anyhow::Result<()> {
    let BrokerArgs { names, .. } = &args.broker;
    let dead = &names.user_created_dead_queue;
    ensure!(
        args.all,
        "this throws away every message of {dead}; say --all if that is meant"
    );
    let connection = args.broker.connect().await?;
    let channel = connection.create_channel().await?;
    declare_dead(&channel, names).await?;
    let purged = dead_letters::purge(&channel, dead).await?;
    connection.close(200, "bye".into()).await?;
    println!("{purged} messages of {dead} thrown away");
    Ok(())
}

fn table(letters: &[DeadLetter]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header([
        "DEAD_SINCE",
        "USER_ID",
        "BYTES",
        "MESSAGE_ID",
        "REASON",
    ]);
    let shown = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    for letter in letters {
        let since = letter.dead_since.and_then(|at| at.format(&Rfc3339).ok());
        table.add_row([
            shown(since),
            shown(letter.user_id.map(|id| id.to_string())),
            letter.bytes.to_string(),
            shown(letter.message_id.clone()),
            shown(letter.reason.clone()),
        ]);
    }
    table
}
