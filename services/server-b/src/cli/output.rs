//! What commands read and print alike.

use std::io::Read;
use std::path::Path;

use anyhow::Context;
use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Table,
    /// For programs
    Json,
}

pub fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// A list, as it is wanted; a table without rows would look like a fault.
pub fn print_list<T: Serialize>(
    output: Output,
    list: &[T],
    what: &str,
    table: impl FnOnce(&[T]) -> Table,
) -> anyhow::Result<()> {
    match output {
        Output::Json => print_json(&list)?,
        Output::Table if list.is_empty() => println!("no {what}"),
        Output::Table => println!("{}", table(list)),
    }
    Ok(())
}

/// A table with such columns, without lines.
pub fn columns<const N: usize>(names: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(names);
    table
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

/// A time of the command line.
pub fn parse_time(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|_| "must be a time such as 2027-01-31T00:00:00Z".to_owned())
}

/// For a table; empty where there is none.
pub fn time_text(time: Option<OffsetDateTime>) -> String {
    time.and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_default()
}
