//! The CSV of an import, read a row at a time and checked for what a row alone can tell.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;
use std::io::Read;

use anyhow::{Context, bail};
use csv::{Position, ReaderBuilder, StringRecord};
use garde::Validate;

use crate::keys::NewKey;
use crate::users::{ImportRow, UserChanges};

const COLUMNS: [&str; 4] = ["username", "is_active", "daily_quota", "api_key"];
/// Faults that are listed; the rest is counted.
pub const FAULTS_SHOWN: usize = 20;

/// What is wrong where. Never quotes the field: it may be a key.
#[derive(Debug)]
pub struct Fault {
    pub line: u64,
    pub column: Cow<'static, str>,
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

/// What is wrong with a file: the first faults, and how many there are.
#[derive(Debug, Default)]
pub struct Faults {
    shown: Vec<Fault>,
    more: u64,
}

impl Faults {
    /// Adds one.
    pub fn push(&mut self, fault: Fault) {
        self.shown.push(fault);
        if self.shown.len() > 2 * FAULTS_SHOWN {
            self.shorten();
        }
    }

    /// Counts some that are not listed.
    pub fn count(&mut self, more: u64) {
        self.more += more;
    }

    fn shorten(&mut self) {
        self.shown.sort_by_key(|fault| fault.line);
        self.more += self.shown.len().saturating_sub(FAULTS_SHOWN) as u64;
        self.shown.truncate(FAULTS_SHOWN);
    }

    /// An error that lists the faults, if there are any.
    pub fn refuse(mut self) -> anyhow::Result<()> {
        if self.shown.is_empty() {
            return Ok(());
        }
        self.shorten();
        let mut lines: Vec<String> = self.shown.iter().map(ToString::to_string).collect();
        if self.more > 0 {
            lines.push(format!("and {} more", self.more));
        }
        bail!("nothing was imported:\n  {}", lines.join("\n  "))
    }
}

/// The rows of a file, one at a time.
pub struct Rows<R> {
    reader: csv::Reader<Window<R>>,
    columns: Columns,
    record: StringRecord,
}

impl<R: Read> Rows<R> {
    /// Reads the header.
    pub fn new(input: R) -> anyhow::Result<Self> {
        let mut reader = ReaderBuilder::new().from_reader(Window::new(input));
        let header = reader.headers().context("cannot read the CSV header")?;
        Ok(Self {
            columns: Columns::from_header(header)?,
            reader,
            record: StringRecord::new(),
        })
    }

    /// The next row, or what is wrong with it; `None` after the last.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn next_row(&mut self) -> anyhow::Result<Option<Result<ImportRow, Fault>>> {
        match self.reader.read_record(&mut self.record) {
            Ok(false) => Ok(None),
            Ok(true) => {
                let line = self.reader.get_mut().line_of(self.record.position());
                Ok(Some(self.columns.row(line, &self.record)))
            }
            Err(error) => {
                let line = self.reader.get_mut().line_of(error.position());
                Ok(Some(Err(structural(line, &error)?)))
            }
        }
    }
}

/// Passes a file on, and keeps what the reader may still ask about: the lines between two records.
struct Window<R> {
    input: R,
    /// Offset of the first byte that is kept.
    start: u64,
    kept: VecDeque<u8>,
}

impl<R> Window<R> {
    fn new(input: R) -> Self {
        Self {
            input,
            start: 0,
            kept: VecDeque::new(),
        }
    }

    /// The line on which a record begins. The reader's position is before the rest of a CRLF and before
    /// blank lines, which it skips.
    fn line_of(&mut self, position: Option<&Position>) -> u64 {
        let Some(position) = position else { return 0 };
        let before = position.byte().saturating_sub(self.start);
        let before = self
            .kept
            .len()
            .min(usize::try_from(before).unwrap_or(usize::MAX));
        self.kept.drain(..before);
        self.start = position.byte();
        let skipped = self.kept.iter();
        let skipped = skipped.take_while(|byte| matches!(byte, b'\r' | b'\n'));
        position.line() + skipped.filter(|byte| **byte == b'\n').count() as u64
    }
}

impl<R: Read> Read for Window<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.kept.extend(&buffer[..read]);
        Ok(read)
    }
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

    fn row(&self, line: u64, record: &StringRecord) -> Result<ImportRow, Fault> {
        let [username, is_active, daily_quota, api_key] = self.0.map(|place| {
            let text = place.and_then(|place| record.get(place));
            text.filter(|text| !text.is_empty())
        });
        let fault = |column, message: &str| Fault {
            line,
            column: Cow::Borrowed(column),
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
        Ok(ImportRow {
            line,
            username: checked.username.unwrap_or_default(),
            is_active: checked.is_active,
            daily_quota: checked.daily_quota,
            api_key: api_key.map_err(|error| fault("api_key", &error.to_string()))?,
        })
    }
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
        column: column.into(),
        message,
    })
}
