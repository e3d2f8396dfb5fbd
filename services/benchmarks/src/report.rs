//! What a benchmark found: values by variant and measure, and the ratios that count.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use comfy_table::{CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::bench::Bench;
use crate::stats;

/// Measure: CPU time of all programs that take part.
const TOGETHER: &str = "CPU µs/op, together";

/// Where a ratio or a value should lie. A miss fails nothing: it is shown.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aim {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

/// The values of one measure of one variant, a value a round.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Series {
    /// What ran.
    pub variant: String,
    /// What was measured, with its unit.
    pub measure: String,
    /// Middle of the values.
    pub median: f64,
    /// All of them.
    pub values: Vec<f64>,
}

/// One measure of two variants, round by round, or a value that has an aim itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ratio {
    /// What is compared.
    pub name: String,
    /// Middle of the rounds' ratios.
    pub median: f64,
    /// All of them.
    pub values: Vec<f64>,
    /// Where it should lie.
    pub aim: Option<Aim>,
}

/// See the module's documentation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// The benchmark.
    pub benchmark: String,
    /// All values.
    pub series: Vec<Series>,
    /// What counts.
    pub ratios: Vec<Ratio>,
    /// What the figures need to be understood.
    pub notes: Vec<String>,
}

/// With what, when and where the figures were made.
#[derive(Debug, Serialize)]
struct Circumstances<'a> {
    date: String,
    profile: &'a str,
    short: bool,
    rounds: usize,
    cpus: usize,
    cpu_model: String,
    memory_mib: u64,
    /// Of the last minute, when the benchmark ended.
    load_average: String,
    #[serde(flatten)]
    report: &'a Report,
}

impl Report {
    /// Nothing yet.
    pub fn new(benchmark: &str) -> Self {
        Self {
            benchmark: benchmark.to_owned(),
            series: Vec::new(),
            ratios: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Adds this round's value.
    pub fn add(&mut self, variant: &str, measure: &str, value: f64) {
        let found = self
            .series
            .iter_mut()
            .find(|it| it.variant == variant && it.measure == measure);
        let series = match found {
            Some(series) => series,
            None => self.series.push_mut(Series {
                variant: variant.to_owned(),
                measure: measure.to_owned(),
                median: 0.0,
                values: Vec::new(),
            }),
        };
        series.values.push(value);
        series.median = stats::median(&series.values);
    }

    /// Adds the CPU time that each program has used for one of `operations`, and what they used together: that hardly
    /// depends on what else the machine does.
    pub fn add_cpu(
        &mut self,
        variant: &str,
        used: &BTreeMap<String, Duration>,
        operations: u64,
        programs: &[&str],
    ) {
        let mut together = 0.0;
        for program in programs {
            let used = used.get(*program).copied().unwrap_or_default();
            let each = used.as_secs_f64() * 1e6 / stats::number(operations.max(1));
            self.add(variant, &format!("CPU µs/op, {program}"), each);
            together += each;
        }
        self.add(variant, TOGETHER, together);
    }

    fn values(&self, variant: &str, measure: &str) -> &[f64] {
        self.series
            .iter()
            .find(|it| it.variant == variant && it.measure == measure)
            .map_or(&[], |it| &it.values)
    }

    /// Compares one measure of two variants: round by round, so that what else the machine does hits both.
    pub fn ratio(&mut self, of: &str, to: &str, measure: &str, aim: Option<Aim>) {
        let values: Vec<f64> = self
            .values(of, measure)
            .iter()
            .zip(self.values(to, measure))
            .map(|(of, to)| of / to)
            .collect();
        self.push_ratio(format!("{measure}: {of} / {to}"), values, aim);
    }

    /// The ratio of rates that two variants would have if CPU time alone limited both.
    pub fn ratio_of_cpu(&mut self, of: &str, to: &str) {
        let values: Vec<f64> = self
            .values(of, TOGETHER)
            .iter()
            .zip(self.values(to, TOGETHER))
            .map(|(of, to)| to / of)
            .collect();
        self.push_ratio(format!("by CPU time: {of} / {to}"), values, None);
    }

    /// Holds a value itself against an aim.
    pub fn hold(&mut self, variant: &str, measure: &str, aim: Aim) {
        let values = self.values(variant, measure).to_vec();
        self.push_ratio(format!("{measure}: {variant}"), values, Some(aim));
    }

    fn push_ratio(&mut self, name: String, values: Vec<f64>, aim: Option<Aim>) {
        self.ratios.push(Ratio {
            name,
            median: stats::median(&values),
            values,
            aim,
        });
    }

    /// Says what the figures need to be understood.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Prints the tables and writes the JSON.
    pub fn finish(&self, bench: &Bench) -> Result<()> {
        let cpus = std::thread::available_parallelism().map_or(0, usize::from);
        let circumstances = Circumstances {
            date: OffsetDateTime::now_utc().format(&Rfc3339)?,
            profile: &bench.profile,
            short: bench.short,
            rounds: bench.round_count(),
            cpus,
            cpu_model: proc_value("cpuinfo", "model name"),
            memory_mib: proc_value("meminfo", "MemTotal")
                .split(' ')
                .next()
                .and_then(|kib| kib.parse::<u64>().ok())
                .unwrap_or_default()
                / 1024,
            load_average: first_word("loadavg"),
            report: self,
        };
        println!(
            "\n{}: profile {}, {} rounds, {} CPUs, load average {}{}",
            self.benchmark,
            bench.profile,
            bench.round_count(),
            cpus,
            circumstances.load_average,
            if bench.short {
                ", short: only to see that it works"
            } else {
                ""
            }
        );
        println!("{}\n{}", self.series_table(), self.ratio_table());
        for note in &self.notes {
            println!("{note}");
        }
        fs::create_dir_all(&bench.out).context("creating the directory of results")?;
        let file = bench.out.join(format!("{}.json", self.benchmark));
        let json = serde_json::to_string_pretty(&circumstances)?;
        fs::write(&file, json + "\n").with_context(|| format!("writing {}", file.display()))
    }

    fn series_table(&self) -> Table {
        let mut table = table(&["variant", "measure", "median", "least", "most"]);
        for it in &self.series {
            table.add_row([
                it.variant.clone(),
                it.measure.clone(),
                shown(it.median),
                shown(stats::quantile(&it.values, 0.0)),
                shown(stats::quantile(&it.values, 1.0)),
            ]);
        }
        table
    }

    fn ratio_table(&self) -> Table {
        let mut table = table(&["what counts", "aim", "median", "least", "most"]);
        for it in &self.ratios {
            table.add_row([
                it.name.clone(),
                it.aim.map_or_else(String::new, |aim| aim.judged(it.median)),
                shown(it.median),
                shown(stats::quantile(&it.values, 0.0)),
                shown(stats::quantile(&it.values, 1.0)),
            ]);
        }
        table
    }
}

impl Aim {
    fn judged(self, value: f64) -> String {
        let (sign, bound, met) = match self {
            Self::AtLeast(bound) => ("≥", bound, value >= bound),
            Self::AtMost(bound) => ("≤", bound, value <= bound),
        };
        let verdict = if met { "" } else { ", missed" };
        format!("{sign} {}{verdict}", shown(bound))
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::ASCII_MARKDOWN)
        .set_header(header.iter().copied());
    for column in 2..5 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Three digits that count, and no more than a reader can take in.
fn shown(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        size if size > 0.0 => format!("{value:.4}"),
        _ => "0".to_owned(),
    }
}

fn proc_value(file: &str, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{file}")).unwrap_or_default();
    let value = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(found, _)| found.trim() == name)
        .map(|(_, value)| value.trim().to_owned());
    value.unwrap_or_default()
}

fn first_word(file: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{file}")).unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_are_compared_round_by_round() {
        let mut report = Report::new("x");
        for (fast, slow) in [(10.0, 5.0), (100.0, 50.0), (30.0, 10.0)] {
            report.add("fast", "ops/s", fast);
            report.add("slow", "ops/s", slow);
        }
        report.ratio("slow", "fast", "ops/s", Some(Aim::AtLeast(0.6)));
        let ratio = &report.ratios[0];
        assert!((ratio.median - 0.5).abs() < 1e-9, "{ratio:?}");
        assert_eq!(ratio.values.len(), 3);
        assert_eq!(Aim::AtLeast(0.6).judged(ratio.median), "≥ 0.60, missed");
        assert_eq!(Aim::AtMost(0.6).judged(ratio.median), "≤ 0.60");
    }
}
