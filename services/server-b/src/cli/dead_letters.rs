//! `server-b dead-letters …`: what could not become a row, in `sms_outbound_queue.dead`.

use clap::{Args, Subcommand};
use comfy_table::Table;
use serde::Serialize;
use service_runtime::amqp::Connector;
use service_runtime::config::AmqpArgs;

use super::output::{Output, columns, print_json};
use crate::sms::dead_letters::{DeadLetter, DeadQueue, Fate};

pub const EXAMPLES: &str = "Examples:
  server-b dead-letters list                   # RABBITMQ_URL names the broker
  server-b dead-letters show 0198c0de-…        # headers and body: phone numbers and text, too
  server-b dead-letters requeue --all          # after what they were refused for has been mended
  server-b dead-letters purge 0198c0de-…

While one of these commands runs, another sees only what the first has not taken in hand.";

/// Letters that `list` shows where nothing else is said.
const LISTED: u32 = 100;

#[derive(Debug, Subcommand)]
pub enum DeadLettersCommand {
    /// List them, the oldest first: when and why they were set aside, nothing of what they hold
    List(ListArgs),
    /// Show one whole: its headers, and its body with phone numbers and text
    Show(ShowArgs),
    /// Put them back into the queue that they came from; what is still refused comes here again
    Requeue(ChosenArgs),
    /// Delete them for good
    Purge(ChosenArgs),
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// How many at most
    #[arg(long, default_value_t = LISTED, value_name = "N")]
    limit: u32,
    /// How the list is printed
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    output: Output,
    #[command(flatten)]
    amqp: AmqpArgs,
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// As `list` shows it
    message_id: String,
    #[command(flatten)]
    amqp: AmqpArgs,
}

#[derive(Debug, Args)]
#[group(id = "chosen", required = true, multiple = false)]
struct Chosen {
    /// As `list` shows them
    #[arg(value_name = "MESSAGE_ID")]
    message_ids: Vec<String>,
    /// Every letter that is there now
    #[arg(long)]
    all: bool,
}

#[derive(Debug, Args)]
pub struct ChosenArgs {
    #[command(flatten)]
    chosen: Chosen,
    #[command(flatten)]
    amqp: AmqpArgs,
}

pub async fn run(command: DeadLettersCommand) -> anyhow::Result<()> {
    match command {
        DeadLettersCommand::List(args) => list(&args).await,
        DeadLettersCommand::Show(args) => show(&args).await,
        DeadLettersCommand::Requeue(args) => settle(&args, Fate::Requeue, "requeued").await,
        DeadLettersCommand::Purge(args) => settle(&args, Fate::Purge, "purged").await,
    }
}

async fn open(amqp: &AmqpArgs) -> anyhow::Result<DeadQueue> {
    DeadQueue::open(&Connector::new("server-b", amqp)?).await
}

async fn list(args: &ListArgs) -> anyhow::Result<()> {
    let mut queue = open(&args.amqp).await?;
    let mut letters = Vec::new();
    while letters.len() < args.limit as usize
        && let Some(letter) = queue.next().await?
    {
        letters.push(Listed::from(&letter));
    }
    let total = queue.total();
    queue.close().await?;
    if args.output == Output::Json {
        return print_json(&letters);
    }
    if letters.is_empty() {
        println!("no dead letters");
        return Ok(());
    }
    println!("{}", table(&letters));
    if letters.len() < total as usize {
        eprintln!("{} of {total} shown; --limit shows more", letters.len());
    }
    Ok(())
}

async fn show(args: &ShowArgs) -> anyhow::Result<()> {
    let mut queue = open(&args.amqp).await?;
    let mut found = None;
    while found.is_none()
        && let Some(letter) = queue.next().await?
    {
        found = (letter.message_id() == args.message_id).then(|| Shown::from(&letter));
    }
    queue.close().await?;
    let found = found.ok_or_else(|| no_letter(&args.message_id))?;
    print_json(&found)
}

async fn settle(args: &ChosenArgs, fate: Fate, done: &str) -> anyhow::Result<()> {
    let mut queue = open(&args.amqp).await?;
    let mut left = args.chosen.message_ids.clone();
    let mut settled = 0_u64;
    while (args.chosen.all || !left.is_empty())
        && let Some(letter) = queue.next().await?
    {
        let named = left.iter().position(|id| *id == letter.message_id());
        if let Some(at) = named {
            left.swap_remove(at);
        }
        if args.chosen.all || named.is_some() {
            queue.settle(letter, fate).await?;
            settled += 1;
        }
    }
    println!("{settled} {done}");
    queue.close().await?;
    match left.first() {
        Some(id) => Err(no_letter(id)),
        None => Ok(()),
    }
}

fn no_letter(message_id: &str) -> anyhow::Error {
    anyhow::anyhow!(
        "no dead letter has the message_id {message_id}; `dead-letters list` shows them"
    )
}

/// What a list tells of a letter.
#[derive(Serialize)]
struct Listed {
    message_id: String,
    #[serde(rename = "type")]
    event_type: String,
    dead_since: Option<String>,
    reason: Option<String>,
    bytes: usize,
}

impl From<&DeadLetter> for Listed {
    fn from(letter: &DeadLetter) -> Self {
        Self {
            message_id: letter.message_id(),
            event_type: letter.event_type(),
            dead_since: letter.dead_since(),
            reason: letter.reason(),
            bytes: letter.body().len(),
        }
    }
}

/// A letter and what it holds.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    listed: Listed,
    source: String,
    headers: serde_json::Value,
    /// What is not UTF-8 is replaced.
    body: String,
}

impl From<&DeadLetter> for Shown {
    fn from(letter: &DeadLetter) -> Self {
        Self {
            listed: letter.into(),
            source: letter.source(),
            headers: letter.headers(),
            body: String::from_utf8_lossy(letter.body()).into_owned(),
        }
    }
}

fn table(letters: &[Listed]) -> Table {
    let mut table = columns(["MESSAGE_ID", "TYPE", "DEAD_SINCE", "BYTES", "REASON"]);
    for letter in letters {
        table.add_row([
            letter.message_id.clone(),
            letter.event_type.clone(),
            letter.dead_since.clone().unwrap_or_default(),
            letter.bytes.to_string(),
            letter.reason.clone().unwrap_or_default(),
        ]);
    }
    table
}
