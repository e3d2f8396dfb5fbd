//! The CSV of an import: read and checked as a whole, before anything is written.

use std::collections::HashMap;
use std::fmt;
use std::io::Read;

use anyhow::{Context, bail};
use csv::{Position, ReaderBuilder, StringRecord};
use garde::Validate;
use wire_contract::KeyDigest;

use crate::keys::NewKey;
use crate::users::UserChanges;

const COLUMNS: [&str; 4] = ["username", "is_active", "daily_quota", "api_key"];
/// What some spreadsheets put before UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Faults that are listed; the rest is counted.
const FAULTS_SHOWN: usize = 20;

/// One user of the file; `None` where the file says nothing.
#[derive(Debug)]
pub struct Row {
    /// In the file, from 1.
    pub line: u64,
    pub username: String,
    pub is_active: Option<bool>,
    pub daily_quota: Option<i32>,
    pub api_key: Option<NewKey>,
}

/// What is wrong where. Never quotes the field: it may be a key.
#[derive(Debug)]
pub struct Fault {
    pub line: u64,
    pub column: &'static str,
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "line {}, column {}: {}",
            self.line, self.column, self.message
        )
    }
}

/// An error that lists the faults, if there are any.
pub fn refuse(faults: &[Fault]) -> anyhow::Result<()> {
    if faults.is_empty() {
        return Ok(());
    }
    let shown = faults.iter().take(FAULTS_SHOWN).map(ToString::to_string);
    let mut lines: Vec<String> = shown.collect();
    if faults.len() > FAULTS_SHOWN {
        lines.push(format!("and {} more", faults.len() - FAULTS_SHOWN));
    }
    bail!("nothing was imported:\n  {}", lines.join("\n  "))
}

/// Reads all rows.
///
/// # Errors
/// If the file cannot be read, the header or any row is not acceptable, or a name or key appears twice.
pub fn read(mut input: impl Read) -> anyhow::Result<Vec<Row>> {
    let mut bytes = Vec::new();
    input
        .read_to_end(&mut bytes)
        .context("cannot read the CSV file")?;
    let text = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes);
    let mut reader = ReaderBuilder::new().from_reader(text);
    let columns = Columns::from_header(reader.headers().context("cannot read the CSV header")?)?;
    let mut rows = Vec::new();
    let mut faults = Vec::new();
    for record in reader.records() {
        match record {
            Ok(record) => match columns.row(line_of(text, record.position()), &record) {
                Ok(row) => rows.push(row),
                Err(fault) => faults.push(fault),
            },
            Err(error) => faults.push(structural(line_of(text, error.position()), &error)?),
        }
    }
    find_duplicates(&rows, &mut faults);
    faults.sort_by_key(|fault| fault.line);
    refuse(&faults)?;
    Ok(rows)
}

/// Where each column is in the file.
struct Columns([Option<usize>; COLUMNS.len()]);

impl Columns {
    fn from_header(header: &StringRecord) -> anyhow::Result<Self> {
        let mut places = [None; COLUMNS.len()];
        for (place, name) in header.iter().enumerate() {
            let known = COLUMNS.iter().position(|column| *column == name);
            let known = known.with_context(|| {
                // Not quoted: a file without a header has a key there.
                format!(
                    "column {} of the header is not one of {}",
                    place + 1,
                    COLUMNS.join(", ")
                )
            })?;
            if places[known].replace(place).is_some() {
                bail!("the header names {name} twice");
            }
        }
        places[0].context("the header does not name the column username")?;
        Ok(Self(places))
    }

    fn row(&self, line: u64, record: &StringRecord) -> Result<Row, Fault> {
        let [username, is_active, daily_quota, api_key] = self.0.map(|place| {
            let text = place.and_then(|place| record.get(place));
            text.filter(|text| !text.is_empty())
        });
        let fault = |column, message: &str| Fault {
            line,
            column,
            message: message.to_owned(),
        };
        let checked = UserChanges {
            username: Some(username.unwrap_or_default().to_owned()),
            is_active: is_active
                .map(|text| {
                    boolean(text).ok_or_else(|| fault("is_active", "must be true or false"))
                })
                .transpose()?,
            daily_quota: daily_quota
                .map(str::parse)
                .transpose()
                .map_err(|_| fault("daily_quota", "must be an integer from 0 to 2147483647"))?,
        };
        if let Err(report) = checked.validate()
            && let Some((path, error)) = report.iter().next()
        {
            let path = path.to_string();
            let column = COLUMNS.into_iter().find(|column| path.starts_with(column));
            return Err(fault(column.unwrap_or("username"), error.message()));
        }
        let api_key = api_key.map(|text| NewKey::import(text.into())).transpose();
        Ok(Row {
            line,
            username: checked.username.unwrap_or_default(),
            is_active: checked.is_active,
            daily_quota: checked.daily_quota,
            api_key: api_key.map_err(|error| fault("api_key", &error.to_string()))?,
        })
    }
}

/// The line on which a record begins. The reader's position is before the rest of a CRLF and before
/// blank lines, which it skips.
fn line_of(text: &[u8], position: Option<&Position>) -> u64 {
    let Some(position) = position else { return 0 };
    let start = usize::try_from(position.byte()).unwrap_or(usize::MAX);
    let skipped = text.get(start..).unwrap_or_default().iter();
    let skipped = skipped.take_while(|byte| matches!(byte, b'\r' | b'\n'));
    position.line() + skipped.filter(|byte| **byte == b'\n').count() as u64
}

fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

/// A record that is no row at all; an unreadable file is an error of its own.
fn structural(line: u64, error: &csv::Error) -> anyhow::Result<Fault> {
    let (column, message) = match error.kind() {
        csv::ErrorKind::UnequalLengths {
            expected_len, len, ..
        } => (
            "(all)",
            format!("has {len} fields where the header has {expected_len}"),
        ),
        csv::ErrorKind::Utf8 { err, .. } => {
            ("(all)", format!("field {} is not UTF-8", err.field() + 1))
        }
        _ => bail!("cannot read the CSV file: {error}"),
    };
    Ok(Fault {
        line,
        column,
        message,
    })
}

fn find_duplicates(rows: &[Row], faults: &mut Vec<Fault>) {
    let mut names: HashMap<&str, u64> = HashMap::new();
    let mut keys: HashMap<KeyDigest, u64> = HashMap::new();
    for row in rows {
        let name = names.insert(&row.username, row.line);
        let key = row
            .api_key
            .as_ref()
            .and_then(|key| keys.insert(key.digest(), row.line));
        for (column, earlier) in [("username", name), ("api_key", key)] {
            if let Some(earlier) = earlier {
                faults.push(Fault {
                    line: row.line,
                    column,
                    message: format!("is the same as in line {earlier}"),
                });
            }
        }
    }
}
