//! Seals API keys with another sealing key. What the wire carries stays the same, so nothing is published; see
//! `told_keys()` in `migrations/0003_admin.sql`.

use anyhow::Context;
use secrecy::ExposeSecret;
use serde::Serialize;
use sqlx::PgPool;
use wire_contract::KeyDigest;

use crate::actor::{Actor, TransactionError, in_transaction};
use crate::keys::KeyRing;

/// Keys in one transaction.
const BATCH: i64 = 500;

/// What a run came to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Keys that are sealed anew.
    pub resealed: u64,
    /// Keys that no sealing key opens, or that are not their row's.
    pub unopened: u64,
}

/// How many keys a sealing key seals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct SealedWith {
    /// The sealing key's id; `None`: only digests are kept.
    pub key_id: Option<i32>,
    /// API keys.
    pub api_keys: i64,
    /// Changes that wait to be published and still carry a key sealed so: not to be dropped before they are.
    pub events: i64,
}

#[derive(sqlx::FromRow)]
struct SealedKey {
    key_id: i64,
    user_id: i64,
    digest: [u8; 32],
    sealed: Vec<u8>,
}

/// Keys as the columns of the statement that changes them.
#[derive(Default)]
struct Columns {
    user_ids: Vec<i64>,
    key_ids: Vec<i64>,
    old: Vec<Vec<u8>>,
    new: Vec<Vec<u8>>,
}

/// Seals every key with the first sealing key, where another has sealed it. Runs side by side with anything: a key that
/// was changed meanwhile is left as it is. After an interruption the next run goes on with the rest.
///
/// # Errors
/// If the ring seals nothing, or the database cannot be reached.
pub async fn reseal(
    pool: &PgPool,
    ring: &KeyRing,
    actor: &Actor,
    mut progress: impl FnMut(u64, u64),
) -> anyhow::Result<Outcome> {
    let id = ring
        .sealing_key_id()
        .context("API_KEY_MODE=digest seals no keys: there is nothing to seal them with")?;
    let total: i64 =
        sqlx::query_scalar("SELECT count(*) FROM api_keys WHERE get_byte(sealed, 0) <> $1")
            .bind(i32::from(id))
            .fetch_one(pool)
            .await
            .context("cannot count the keys")?;
    let mut outcome = Outcome::default();
    let mut after = i64::MIN;
    loop {
        let batch = read(pool, id, after).await?;
        let Some(last) = batch.last() else {
            return Ok(outcome);
        };
        after = last.key_id;
        let columns = seal(ring, batch, &mut outcome);
        outcome.resealed += store(pool, actor, columns).await?;
        progress(outcome.resealed + outcome.unopened, total.unsigned_abs());
    }
}

async fn read(pool: &PgPool, id: u8, after: i64) -> anyhow::Result<Vec<SealedKey>> {
    sqlx::query_as(
        "SELECT key_id, user_id, digest, sealed FROM api_keys
         WHERE get_byte(sealed, 0) <> $1 AND key_id > $2 ORDER BY key_id LIMIT $3",
    )
    .bind(i32::from(id))
    .bind(after)
    .bind(BATCH)
    .fetch_all(pool)
    .await
    .context("cannot read keys")
}

fn seal(ring: &KeyRing, batch: Vec<SealedKey>, outcome: &mut Outcome) -> Columns {
    let mut columns = Columns::default();
    for key in batch {
        match resealed(ring, &key) {
            Ok(new) => {
                columns.user_ids.push(key.user_id);
                columns.key_ids.push(key.key_id);
                columns.old.push(key.sealed);
                columns.new.push(new);
            }
            Err(error) => {
                outcome.unopened += 1;
                let (key_id, user_id) = (key.key_id, key.user_id);
                tracing::error!(
                    key_id,
                    user_id,
                    error = format!("{error:#}"),
                    "key not resealed"
                );
            }
        }
    }
    columns
}

fn resealed(ring: &KeyRing, key: &SealedKey) -> anyhow::Result<Vec<u8>> {
    let opened = ring.open(&key.sealed)?;
    anyhow::ensure!(
        KeyDigest::of(opened.expose_secret()) == KeyDigest::from_bytes(key.digest),
        "it is not the key of its row"
    );
    ring.seal(opened.expose_secret()).context("nothing seals")
}

/// Users first and in order, as every change of keys locks them: no deadlock with a rotation or another run.
async fn store(pool: &PgPool, actor: &Actor, columns: Columns) -> anyhow::Result<u64> {
    if columns.key_ids.is_empty() {
        return Ok(0);
    }
    in_transaction(pool, actor, move |tx| {
        Box::pin(async move {
            sqlx::query("SELECT 1 FROM users WHERE user_id = ANY($1) ORDER BY user_id FOR UPDATE")
                .bind(columns.user_ids)
                .execute(&mut *tx)
                .await?;
            let changed = sqlx::query(
                "UPDATE api_keys SET sealed = resealed.new
                 FROM unnest($1::bigint[], $2::bytea[], $3::bytea[]) AS resealed (key_id, old, new)
                 WHERE api_keys.key_id = resealed.key_id AND api_keys.sealed = resealed.old",
            )
            .bind(columns.key_ids)
            .bind(columns.old)
            .bind(columns.new)
            .execute(tx)
            .await?;
            Ok::<_, TransactionError>(changed.rows_affected())
        })
    })
    .await
    .context(
        "cannot store resealed keys; those before are stored, the next run goes on with the rest",
    )
}

/// How many keys each sealing key seals, in the tables and in changes that are not yet published.
pub async fn sealed_with(pool: &PgPool) -> anyhow::Result<Vec<SealedWith>> {
    sqlx::query_as(
        "WITH of_keys AS (
             SELECT get_byte(sealed, 0) AS key_id, count(*) AS api_keys FROM api_keys GROUP BY 1
         ), of_events AS (
             SELECT get_byte(decode(key ->> 'sealed', 'hex'), 0) AS key_id, count(DISTINCT id) AS events
             -- That of a deletion names the keys of before.
             FROM outbox, jsonb_array_elements(coalesce(new_image, old_image) -> 'keys') AS key
             WHERE key ->> 'sealed' IS NOT NULL GROUP BY 1
         )
         SELECT key_id, coalesce(api_keys, 0) AS api_keys, coalesce(events, 0) AS events
         FROM of_keys FULL JOIN of_events USING (key_id) ORDER BY key_id NULLS FIRST",
    )
    .fetch_all(pool)
    .await
    .context("cannot count the keys")
}
