//! A steady load of writes, by `psql` sessions.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
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
/// The load is open: what PostgreSQL cannot take at once queues up in the pipes, and is not left out. Sessions take turns: only
/// what one of them writes has an order.
#[derive(Debug)]
pub struct Writer {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    per_second: u32,
    started: Instant,
    sender: Option<JoinHandle<Result<()>>>,
    readers: Vec<JoinHandle<()>>,
    sessions: Vec<Child>,
}

impl Writer {
    /// `statement` gives the SQL of the n-th write, one row, without a semicolon.
    pub fn start(
        database_url: &str,
        sessions: usize,
        per_second: u32,
        statement: impl Fn(u64) -> String + Send + 'static,
    ) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let written = Arc::new(AtomicU64::new(0));
        let (mut writers, mut inputs, mut readers) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..sessions {
            let mut psql = Command::new(packages::find_postgres_bin()?.join("psql"))
                .args(["--no-psqlrc", "--set", "ON_ERROR_STOP=1", database_url])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .context("starting psql")?;
            inputs.push(psql.stdin.take().context("stdin is piped")?);
            let stdout = psql.stdout.take().context("stdout is piped")?;
            let counted = Arc::clone(&written);
            readers.push(thread::spawn(move || count(stdout, &counted)));
            writers.push(psql);
        }
        let stopped = Arc::clone(&stop);
        let sender = thread::spawn(move || pace(inputs, per_second, &statement, &stopped));
        Ok(Self {
            stop,
            written,
            per_second,
            started: Instant::now(),
            sender: Some(sender),
            readers,
            sessions: writers,
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
    /// When PostgreSQL refused one, or it is further behind now than a tenth of what was due or one second, whichever is more:
    /// a busy machine makes up for a second, and a short test has no second to make up in.
    #[must_use]
    pub fn stop(mut self) -> u64 {
        let (lasted, written) = (self.started.elapsed(), self.written());
        let due = lasted.as_millis() * u128::from(self.per_second) / 1_000;
        let behind = due.saturating_sub(written.into());
        assert!(
            behind <= (due / 10).max(self.per_second.into()),
            "{written} of {due} writes in {lasted:?} are not the load"
        );
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.take().map(JoinHandle::join);
        for psql in &mut self.sessions {
            let ended = psql.wait().expect("psql ends with its input");
            assert!(ended.success(), "psql ended with {ended}");
        }
        for reader in self.readers.drain(..) {
            reader.join().expect("a reader does not panic");
        }
        assert!(matches!(sent, Some(Ok(Ok(())))), "{sent:?}");
        self.written()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for psql in &mut self.sessions {
            // Errors mean that it has ended.
            let _ = psql.kill();
            let _ = psql.wait();
        }
    }
}

/// Counts the command tags of statements that wrote their row.
fn count(stdout: ChildStdout, written: &AtomicU64) {
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        if ["UPDATE 1", "INSERT 0 1", "DELETE 1"].contains(&line.as_str()) {
            written.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Dropping `inputs` at the end lets each psql finish what it has and exit.
fn pace(
    mut inputs: Vec<ChildStdin>,
    per_second: u32,
    statement: &impl Fn(u64) -> String,
    stop: &AtomicBool,
) -> Result<()> {
    let start = Instant::now();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let due = start.elapsed().as_millis() * u128::from(per_second) / 1_000;
        let mut lines = vec![String::new(); inputs.len()];
        while u128::from(number) < due {
            for lines in &mut lines {
                *lines += &statement(number);
                *lines += ";\n";
                number += 1;
            }
        }
        for (input, lines) in inputs.iter_mut().zip(&lines) {
            input.write_all(lines.as_bytes()).context("psql ended")?;
        }
        thread::sleep(SLICE);
    }
    Ok(())
}
