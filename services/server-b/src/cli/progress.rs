//! Progress on stderr: a bar on a terminal, a line a second otherwise.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Lines are not written more often.
const LINE_INTERVAL: Duration = Duration::from_secs(1);

/// How far something is, counted in users, keys or other things.
pub struct Progress {
    what: &'static str,
    unit: &'static str,
    bar: Option<ProgressBar>,
    last_line: Option<(u64, Instant)>,
}

impl Progress {
    /// Nothing done yet.
    pub fn new(what: &'static str, unit: &'static str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let template = format!(
                "{{msg}} [{{bar:40}}] {{human_pos}}/{{human_len}} {unit}, {{per_sec}}, {{eta}} left"
            );
            let style = ProgressStyle::with_template(&template).expect("the template is valid");
            ProgressBar::no_length()
                .with_style(style)
                .with_message(what)
        });
        Self {
            what,
            unit,
            bar,
            last_line: None,
        }
    }

    /// So many are done.
    pub fn set(&mut self, done: u64, total: Option<u64>) {
        if let Some(bar) = &self.bar {
            if let Some(total) = total {
                bar.set_length(total);
            }
            bar.set_position(done);
        } else if self.line_is_due(done) {
            let total = total.map_or(String::new(), |total| format!(" of {total}"));
            eprintln!("{}: {done}{total} {}", self.what, self.unit);
            self.last_line = Some((done, Instant::now()));
        }
    }

    /// A remark between.
    pub fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    fn line_is_due(&self, done: u64) -> bool {
        self.last_line
            .is_none_or(|(shown, at)| shown != done && at.elapsed() >= LINE_INTERVAL)
    }
}

impl Drop for Progress {
    /// The result that is printed next takes the place of the bar.
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
