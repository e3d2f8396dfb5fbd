//! A steady load of writes, by one `psql` session.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::servers::packages;

/// Statements are handed over this often.
const SLICE: Duration = Duration::from_millis(10);

/// Commits so many statements a second, each in a transaction of its own, until it is stopped or dropped.
///
/// The load is open: what PostgreSQL cannot take at once queues up in the pipe, and is not left out.
#[derive(Debug)]
pub struct Writer {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    per_second: u32,
    started: Instant,
    sender: Option<JoinHandle<Result<()>>>,
    reader: Option<JoinHandle<()>>,
    psql: Child,
}

impl Writer {
    /// `statement` gives the SQL of the n-th write, one row, without a semicolon.
    pub fn start(
        database_url: &str,
        per_second: u32,
        statement: impl Fn(u64) -> String + Send + 'static,
    ) -> Result<Self> {
        let mut psql = Command::new(packages::find_postgres_bin()?.join("psql"))
            .args(["--no-psqlrc", "--set", "ON_ERROR_STOP=1", database_url])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting psql")?;
        let stdin = psql.stdin.take().context("stdin is piped")?;
        let stdout = psql.stdout.take().context("stdout is piped")?;
        let stop = Arc::new(AtomicBool::new(false));
        let written = Arc::new(AtomicU64::new(0));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&written));
        let sender = thread::spawn(move || pace(stdin, per_second, &statement, &stopped));
        let reader = thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // The command tag of a statement that wrote its row.
                if ["UPDATE 1", "INSERT 0 1", "DELETE 1"].contains(&line.as_str()) {
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Ok(Self {
            stop,
            written,
            per_second,
            started: Instant::now(),
            sender: Some(sender),
            reader: Some(reader),
            psql,
        })
    }

    /// Writes committed so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Ends the load, waits until all that was sent is committed, and tells how many writes there were.
    ///
    /// # Panics
    /// When PostgreSQL refused one, or fewer than nine of ten that were due have written their row by now.
    #[must_use]
    pub fn stop(mut self) -> u64 {
        let (lasted, written) = (self.started.elapsed(), self.written());
        let due = lasted.as_millis() * u128::from(self.per_second) / 1_000;
        assert!(
            u128::from(written) * 10 >= due * 9,
            "{written} of {due} writes in {lasted:?} are not the load"
        );
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.take().map(JoinHandle::join);
        let ended = self.psql.wait().expect("psql ends with its input");
        let _ = self.reader.take().map(JoinHandle::join);
        assert!(ended.success(), "psql ended with {ended}");
        assert!(matches!(sent, Some(Ok(Ok(())))), "{sent:?}");
        self.written()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Errors mean that it has ended.
        let _ = self.psql.kill();
        let _ = self.psql.wait();
    }
}

/// Dropping `psql_input` at the end lets psql finish what it has and exit.
fn pace(
    mut psql_input: ChildStdin,
    per_second: u32,
    statement: &impl Fn(u64) -> String,
    stop: &AtomicBool,
) -> Result<()> {
    let start = Instant::now();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let due = start.elapsed().as_millis() * u128::from(per_second) / 1_000;
        let mut lines = String::new();
        while u128::from(number) < due {
            lines += &statement(number);
            lines += ";\n";
            number += 1;
        }
        psql_input
            .write_all(lines.as_bytes())
            .context("psql ended")?;
        thread::sleep(SLICE);
    }
    Ok(())
}
