//! Locks in the database.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::servers::packages;

/// Locks that a session of its own holds until this is dropped.
#[derive(Debug)]
pub struct Hold {
    psql: Child,
    input: Option<ChildStdin>,
}

impl Hold {
    /// Begins a transaction with this statement in the database; its locks are taken when this returns.
    ///
    /// # Panics
    /// When they cannot be taken.
    #[must_use]
    pub fn new(database_url: &str, statement: &str) -> Self {
        let bin = packages::find_postgres_bin().expect("PostgreSQL is installed");
        let mut psql = Command::new(bin.join("psql"))
            .args([
                "--no-psqlrc",
                "--quiet",
                "--set=ON_ERROR_STOP=1",
                database_url,
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("psql starts");
        let mut input = psql.stdin.take().expect("piped");
        writeln!(input, "BEGIN; {statement};\n\\echo held").expect("psql reads");
        let output = BufReader::new(psql.stdout.take().expect("piped"));
        let mut lines = output.lines().map_while(Result::ok);
        assert!(lines.any(|line| line == "held"), "{statement}");
        Self {
            psql,
            input: Some(input),
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // The end of its input ends psql, and so the transaction.
        drop(self.input.take());
        let _ = self.psql.wait();
    }
}
