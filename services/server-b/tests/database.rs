//! What the relay and the audits do with a real database, when others meddle with it.

use std::collections::HashMap;

use futures_util::future::join_all;
use server_b::MIGRATOR;
use server_b::audit::{Finding, audit};
use server_b::relay::numbering::{self, OutboxRow, Restored};
use service_runtime::config::DatabaseArgs;
use service_runtime::database;
use sqlx::PgPool;
use sqlx::types::Json;
use test_support::{TestDatabase, TestServers};

const BATCH: i64 = 500;

async fn migrated() -> (TestDatabase, PgPool) {
    let guard = TestServers::shared().fresh_database();
    let args = DatabaseArgs {
        database_url: guard.url().to_owned().into(),
        database_max_connections: 4,
    };
    let pool = database::pool("test", &args).expect("a valid URL");
    database::migrate(&pool, &MIGRATOR).await.expect("migrated");
    (guard, pool)
}

fn run(database: &TestDatabase, sql: &str) {
    let done = database.sql(sql);
    done.unwrap_or_else(|error| panic!("{sql}: {error:#}"));
}

/// While no trigger looks.
fn behind_the_triggers(database: &TestDatabase, sql: &str) {
    run(
        database,
        &format!(
            "BEGIN; ALTER TABLE users DISABLE TRIGGER USER; ALTER TABLE api_keys DISABLE TRIGGER USER;
             {sql};
             ALTER TABLE users ENABLE ALWAYS TRIGGER users_before;
             ALTER TABLE users ENABLE ALWAYS TRIGGER users_after_insert_delete;
             ALTER TABLE users ENABLE ALWAYS TRIGGER users_after_update;
             ALTER TABLE api_keys ENABLE ALWAYS TRIGGER api_keys_after; COMMIT"
        ),
    );
}

/// Each with a key, all numbered; gives the term.
async fn with_users(database: &TestDatabase, pool: &PgPool, count: u32) -> i64 {
    run(
        database,
        &format!(
            "BEGIN; SET CONSTRAINTS ALL DEFERRED;
             WITH made AS (INSERT INTO users (username) SELECT 'user-' || n FROM generate_series(1, {count}) n
                           RETURNING user_id, username)
             INSERT INTO api_keys (user_id, digest, prefix)
             SELECT user_id, sha256(convert_to(username, 'UTF8')), 'isk_' FROM made; COMMIT"
        ),
    );
    let term = numbering::take_term(pool).await.expect("a term").term;
    number_all(pool, term).await;
    term
}

/// Numbers what there is; gives the users that are told of, and with how many keys.
async fn number_all(pool: &PgPool, term: i64) -> HashMap<i64, usize> {
    let mut told = HashMap::new();
    while let Some(batch) = numbering::number(pool, term, BATCH)
        .await
        .expect("numbered")
        .batch
    {
        for row in batch.rows {
            let keys = row.new_image.map_or(0, |image| image.keys.len());
            told.insert(row.user_id, keys);
        }
    }
    told
}

/// Methods that numbering rules out make a look at a table of one row seem dear enough: it took 100 ms a batch.
#[tokio::test]
async fn no_statement_is_compiled_however_dear_its_plan_seems() {
    let (_database, pool) = migrated().await;
    let jit: String = sqlx::query_scalar("SHOW jit")
        .fetch_one(&pool)
        .await
        .expect("PostgreSQL answers");
    assert_eq!(jit, "off");
}

#[tokio::test]
async fn a_column_that_a_later_release_adds_stops_neither_relay_nor_audit() {
    let (database, pool) = migrated().await;
    let term = with_users(&database, &pool, 3).await;
    audit(&pool).await.expect("an audit");

    for table in ["relay_state", "outbox", "users", "api_keys"] {
        run(
            &database,
            &format!("ALTER TABLE {table} ADD COLUMN later text"),
        );
    }
    // On connections that have prepared the same statements.
    run(&database, "UPDATE users SET daily_quota = 7");
    assert_eq!(number_all(&pool, term).await.len(), 3);
    assert_eq!(audit(&pool).await.expect("an audit"), Finding::Equal);
    let next = numbering::take_term(&pool).await.expect("another term");
    assert_eq!(next.term, term + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn audits_side_by_side_correct_keys_that_drifted_once() {
    let (database, pool) = migrated().await;
    let term = with_users(&database, &pool, 5).await;
    for round in 0..10 {
        behind_the_triggers(
            &database,
            &format!("UPDATE api_keys SET digest = sha256(digest) WHERE user_id % 5 = {round} % 5"),
        );
        let audits = join_all((0..4).map(|_| audit(&pool))).await;
        let findings: Vec<Finding> = audits.into_iter().map(|it| it.expect("an audit")).collect();
        assert_eq!(number_all(&pool, term).await.len(), 1, "told anew");
        let finding = audit(&pool).await.expect("an audit");
        assert_eq!(finding, Finding::Equal, "after {findings:?}");
    }
}

#[tokio::test]
async fn keys_that_a_users_row_lost_behind_the_triggers_are_back_before_its_next_change() {
    let (database, pool) = migrated().await;
    let term = with_users(&database, &pool, 2).await;
    // Digest and tables still agree.
    behind_the_triggers(&database, "UPDATE users SET wire_keys = '[]'");
    assert_eq!(audit(&pool).await.expect("an audit"), Finding::Drift);
    run(&database, "UPDATE users SET daily_quota = 7");
    let told = number_all(&pool, term).await;
    assert_eq!(told.into_values().collect::<Vec<_>>(), [1, 1]);
    assert_eq!(audit(&pool).await.expect("an audit"), Finding::Equal);
}

#[tokio::test]
async fn a_dump_put_back_under_a_leader_ends_its_term_and_the_next_begins_an_epoch() {
    let (database, pool) = migrated().await;
    let led = numbering::take_term(&pool).await.expect("a term");
    numbering::check_history(&pool).await.expect("the same");
    // What pg_restore --clean does: the same row in another table.
    run(
        &database,
        "BEGIN; CREATE TABLE put_back AS TABLE relay_state; DROP TABLE relay_state;
         ALTER TABLE put_back RENAME TO relay_state; COMMIT",
    );
    let state = numbering::state(&pool).await.expect("the row");
    assert_eq!(state.term, led.term, "the term tells nothing");
    let error = numbering::check_history(&pool).await.expect_err("restored");
    assert!(error.is::<Restored>(), "{error:#}");
    let next = numbering::take_term(&pool).await.expect("a term");
    assert!(next.epoch > led.epoch, "{next:?}");
    numbering::check_history(&pool).await.expect("the same");
}

/// PostgreSQL writes the outbox row of a nested trigger before that of the statement around it.
#[tokio::test]
async fn a_statement_that_writes_a_user_and_its_keys_is_told_as_it_ends_coalesced_or_not() {
    let (database, pool) = migrated().await;
    let term = with_users(&database, &pool, 2).await;
    let revoke = |id: i64| {
        format!(
            "WITH gone AS (DELETE FROM api_keys WHERE user_id = {id} RETURNING user_id)
             UPDATE users SET daily_quota = 7 FROM gone WHERE users.user_id = gone.user_id"
        )
    };
    run(&database, &revoke(1));
    assert_eq!(number_all(&pool, term).await, HashMap::from([(1, 0)]));

    run(&database, &revoke(2));
    assert_eq!(
        numbering::coalesce(&pool, term).await.expect("coalesced"),
        1
    );
    assert_eq!(number_all(&pool, term).await, HashMap::from([(2, 0)]));
    assert_eq!(audit(&pool).await.expect("audited"), Finding::Equal);
}

#[tokio::test]
async fn a_coalesced_change_waits_since_the_oldest_that_it_stands_for() {
    let (database, pool) = migrated().await;
    let term = with_users(&database, &pool, 1).await;
    run(&database, "UPDATE users SET is_active = false");
    run(
        &database,
        "UPDATE outbox SET occurred_at = occurred_at - interval '1 hour'",
    );
    run(&database, "UPDATE users SET daily_quota = 7");
    assert_eq!(
        numbering::coalesce(&pool, term).await.expect("coalesced"),
        1
    );
    run(&database, "UPDATE users SET daily_quota = 8");
    let look = numbering::number(&pool, term, BATCH)
        .await
        .expect("numbered");
    let batch = look.batch.expect("rows");
    let row = &batch.rows[0];
    let waited = row.occurred_at - row.committed_at;
    assert!(waited >= time::Duration::hours(1), "{waited}");
}

/// All that the next leader has after a crash is the row.
#[tokio::test]
async fn what_a_merged_change_stands_for_is_with_its_number_in_the_database() {
    let (database, pool) = migrated().await;
    let term = with_users(&database, &pool, 2).await;
    run(&database, "TRUNCATE outbox");
    run(
        &database,
        "UPDATE users SET is_active = false WHERE user_id = 1; DELETE FROM users WHERE user_id = 2",
    );
    run(
        &database,
        "UPDATE outbox SET occurred_at = occurred_at - interval '1 hour'",
    );
    run(
        &database,
        "UPDATE users SET daily_quota = 7; INSERT INTO users (username) VALUES ('other'); UPDATE users SET daily_quota = 8",
    );
    let look = numbering::number(&pool, term, BATCH).await;
    let numbered = look.expect("numbered").batch.expect("rows").rows;
    let left = numbering::numbered(&pool, BATCH).await.expect("rows");
    let told = |rows: &[OutboxRow]| {
        let rows = rows.iter();
        rows.map(|row| {
            let old = row
                .old_image
                .as_ref()
                .map(|Json(old)| (old.version, old.is_active));
            (row.sequence, row.committed_at, old)
        })
        .collect::<Vec<_>>()
    };
    assert_eq!(told(&left), told(&numbered));
    let merged = left.iter().find(|row| row.user_id == 1).expect("its row");
    let Json(old) = merged.old_image.as_ref().expect("the user before");
    let new = merged.new_image.as_deref();
    assert!(old.loses_a_right(new, 0), "it revokes");
    let waited = merged.occurred_at - merged.committed_at;
    assert!(waited >= time::Duration::hours(1), "{waited}");
}

#[tokio::test]
async fn a_digest_of_another_release_is_computed_anew_without_an_alarm() {
    let (database, pool) = migrated().await;
    let term = with_users(&database, &pool, 3).await;
    run(
        &database,
        "UPDATE relay_state SET digest_version = 2, digest = '\\x000102030405060708090a0b0c0d0e0f'",
    );
    run(&database, "UPDATE users SET daily_quota = 7");
    number_all(&pool, term).await;
    assert_eq!(audit(&pool).await.expect("audited"), Finding::Renewed);
    assert_eq!(audit(&pool).await.expect("audited"), Finding::Equal);
}
