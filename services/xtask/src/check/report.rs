//! What the check saw, as a table.

use std::time::Duration;

use anyhow::Result;
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;

/// What a step that went well has seen.
#[derive(Debug)]
pub struct Seen {
    /// What came out.
    pub result: String,
    /// How long it took, or how far each replica lagged behind.
    pub time: String,
}

/// The rows so far.
#[derive(Debug, Default)]
pub struct Report {
    rows: Vec<[String; 5]>,
    failed: bool,
}

impl Report {
    /// Adds the outcome of a step, and says already that it is done.
    pub fn add(&mut self, step: &str, what: &str, outcome: Result<Seen>) {
        let (mark, result, time) = match outcome {
            Ok(seen) => ("ok", seen.result, seen.time),
            Err(error) => {
                self.failed = true;
                let error = format!("{error:#}");
                println!("  {what}: {error}");
                // More lines would tear the table apart.
                let first_line = error.lines().next().unwrap_or_default().to_owned();
                ("FAILED", first_line, String::new())
            }
        };
        println!("  {step}: {mark}");
        self.rows
            .push([step, what, mark, &result, &time].map(str::to_owned));
    }

    /// Prints the table.
    pub fn print(&self) {
        let mut table = Table::new();
        table.load_preset(UTF8_FULL_CONDENSED);
        table.set_header(["step", "what", "", "result", "lag or time"]);
        table.add_rows(&self.rows);
        println!("{table}");
    }

    /// Whether no step has failed.
    pub fn is_good(&self) -> bool {
        !self.failed
    }
}

/// A duration for people.
pub fn readable(duration: Duration) -> String {
    let milliseconds = duration.as_secs_f64() * 1000.0;
    if milliseconds < 1000.0 {
        format!("{milliseconds:.1} ms")
    } else {
        format!("{:.1} s", milliseconds / 1000.0)
    }
}
