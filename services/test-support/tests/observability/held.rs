//! A transaction that holds its locks.

use std::thread;

use test_support::app::DEADLINE;
use test_support::eventually;
use test_support::servers::psql;

/// Longer than any test.
const HOLD: &str = "SELECT pg_sleep(3600)";

/// Ends when dropped.
pub struct Held {
    url: String,
}

impl Held {
    /// Begins a transaction with this statement in the database; its locks are taken when this returns.
    pub fn begin(url: &str, statement: &str) -> Self {
        let (of_thread, sql) = (url.to_owned(), format!("BEGIN; {statement}; {HOLD}"));
        // Ends with an error, when the session is terminated.
        thread::spawn(move || psql(&of_thread, &sql).map(drop));
        let held = Self {
            url: url.to_owned(),
        };
        eventually(DEADLINE, "the locks to be taken", || {
            held.session("true") == "t"
        });
        held
    }

    /// What an expression gives for the session that holds the locks.
    fn session(&self, expression: &str) -> String {
        let sql = format!(
            "SELECT {expression} FROM pg_stat_activity
             WHERE datname = current_database() AND wait_event = 'PgSleep' AND query LIKE '%{HOLD}'"
        );
        psql(&self.url, &sql).unwrap_or_else(|error| panic!("{error:#}"))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.session("pg_terminate_backend(pid)");
    }
}
