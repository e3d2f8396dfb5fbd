//! `server-b audit-log`: who has changed what.

use clap::Args;
use comfy_table::Table;
use service_runtime::config::DatabaseArgs;
use time::OffsetDateTime;
use wire_contract::UserId;

use super::connect_migrated;
use super::output::{Output, columns, parse_time, print_json, print_list, time_text};
use crate::audit_log::{self, AuditEntry, AuditFilter};

pub const EXAMPLES: &str = "Examples:
  server-b audit-log --user-id 7
  server-b audit-log --actor token:deploy --from-time 2027-01-31T00:00:00Z --output json
  server-b audit-log --cursor 4711             # those before it

An actor is token:<name>, cli:<user of the operating system> or sql:<role>.";

#[derive(Debug, Args)]
pub struct AuditLogArgs {
    /// Only changes of this user
    #[arg(long, value_name = "ID")]
    user_id: Option<UserId>,
    /// Only changes by this actor
    #[arg(long, value_name = "ACTOR")]
    actor: Option<String>,
    /// Only changes at this time or later, such as 2027-01-31T00:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    from_time: Option<OffsetDateTime>,
    /// Only changes before this time
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    to_time: Option<OffsetDateTime>,
    /// Only changes older than this one: the `next_cursor` of the page before
    #[arg(long, value_name = "ID")]
    cursor: Option<i64>,
    /// Changes shown at most, the newest first
    #[arg(long, default_value_t = 50, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=i64::from(audit_log::MAX_PAGE)))]
    limit: u16,
    /// How the list is printed; JSON has what was before and after, too
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    output: Output,
    #[command(flatten)]
    database: DatabaseArgs,
}

pub async fn run(args: AuditLogArgs) -> anyhow::Result<()> {
    let filter = AuditFilter {
        cursor: args.cursor,
        user_id: args.user_id,
        actor: args.actor,
        from_time: args.from_time,
        to_time: args.to_time,
    };
    let pool = connect_migrated(&args.database).await?;
    let page = audit_log::list(&pool, args.limit, &filter).await?;
    if args.output == Output::Json {
        return print_json(&page);
    }
    print_list(args.output, &page.entries, "changes", table)?;
    if let Some(cursor) = page.next_cursor {
        eprintln!("older ones: --cursor {cursor}");
    }
    Ok(())
}

fn table(entries: &[AuditEntry]) -> Table {
    let mut table = columns(["AUDIT_ID", "AT", "ACTOR", "ACTION", "USER_ID"]);
    for entry in entries {
        table.add_row([
            entry.audit_id.to_string(),
            time_text(Some(entry.at)),
            entry.actor.clone(),
            entry.action.clone(),
            entry.user_id.map(|id| id.to_string()).unwrap_or_default(),
        ]);
    }
    table
}
