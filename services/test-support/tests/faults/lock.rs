//! An advisory lock, taken from whoever holds it.

use test_support::app::App;

/// PostgreSQL ends the session that holds this advisory lock; its process does not know yet.
pub fn kill_holder(app: &App, lock: u64) {
    // As `pg_locks` spells a lock of one number.
    let killed = app.sql(&format!(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks
         WHERE locktype = 'advisory' AND granted AND objsubid = 1
           AND (classid::bigint << 32 | objid::bigint) = x'{lock:x}'::bigint
           AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    ));
    assert_eq!(killed, "t");
}
