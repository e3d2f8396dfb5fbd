//! Databases full of users, made fast.

use std::time::Duration;

use anyhow::{Context as _, Result};
use test_support::app::{App, Setup, bulk_key};
use test_support::servers::psql;
use test_support::{TestServers, try_eventually};

const DEADLINE: Duration = Duration::from_mins(5);

/// The key of the n-th user.
pub fn key(number: u64) -> String {
    bulk_key(&format!("user-{number}"))
}

/// Migrates an empty database and puts users 1 to `count` into it, behind the triggers: a million events would take
/// minutes. An audit of server B then brings its digest in step.
pub fn fill(database_url: &str, count: u64) -> Result<()> {
    let vhost = TestServers::shared().fresh_vhost();
    let setup = Setup::on(vhost.url(), database_url).env("AUDIT_INTERVAL_SECONDS", "1");
    let mut app = App::new(setup, None);
    app.start_all(0);
    app.kill_b();
    psql(database_url, &insert(count)).context("filling the database")?;
    app.start_all(0);
    let known = format!("SELECT user_count = {count} FROM relay_state");
    try_eventually(DEADLINE, "an audit", || {
        (psql(database_url, &known)? == "t")
            .then_some(())
            .context("the digest is not in step")
    })?;
    app.kill_b();
    psql(database_url, "VACUUM ANALYZE users, api_keys")?;
    Ok(())
}

fn insert(count: u64) -> String {
    format!(
        "CREATE TEMP TABLE enabled ON COMMIT DROP AS
             SELECT tgrelid::regclass AS relation, tgname FROM pg_trigger
             WHERE NOT tgisinternal AND tgenabled = 'A' AND tgrelid IN ('users'::regclass, 'api_keys'::regclass);
         SET LOCAL session_replication_role = replica;
         ALTER TABLE users DISABLE TRIGGER USER;
         ALTER TABLE api_keys DISABLE TRIGGER USER;
         INSERT INTO api_keys (user_id, digest, prefix)
             SELECT n, sha256(convert_to('isk_bulk_user-' || n, 'UTF8')), 'isk_bulk_' FROM generate_series(1, {count}) n;
         INSERT INTO users (user_id, username, version, wire_keys) OVERRIDING SYSTEM VALUE
             SELECT user_id, 'user-' || user_id, nextval('user_version'), wire_keys_of_bulk
             FROM (SELECT user_id, jsonb_build_array(jsonb_build_object(
                       'digest', encode(digest, 'hex'), 'sealed', NULL, 'expires_at_us', NULL)) AS wire_keys_of_bulk
                   FROM api_keys ORDER BY user_id) AS keys;
         SELECT setval(pg_get_serial_sequence('users', 'user_id'), {count});
         DO $$ DECLARE it record; BEGIN
             FOR it IN SELECT * FROM enabled LOOP
                 EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', it.relation, it.tgname);
             END LOOP;
         END $$"
    )
}
