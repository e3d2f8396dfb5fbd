//! Many users at a time: arrays in, one statement a step.

use std::collections::HashMap;

use sqlx::PgConnection;
use wire_contract::{KeyDigest, UserId};

use super::{NewUser, UserError, Users};
use crate::actor::in_transaction;
use crate::keys::{KeyRing, NewKey};

/// User ids by username.
pub type UserIds = HashMap<String, UserId>;
/// Whose a key is, by its digest.
pub type KeyOwners = HashMap<KeyDigest, UserId>;

/// What an import says about a user that exists; `None` stays as it is.
#[derive(Debug)]
pub struct ImportedChange {
    /// The user.
    pub user_id: UserId,
    /// Whether sends are accepted.
    pub is_active: Option<bool>,
    /// SMS segments a UTC day.
    pub daily_quota: Option<i32>,
    /// Its key from now on; all others are refused.
    pub api_key: Option<NewKey>,
}

/// Keys as the columns of `api_keys`.
#[derive(Default)]
struct KeyColumns {
    user_ids: Vec<UserId>,
    digests: Vec<Vec<u8>>,
    sealed: Vec<Option<Vec<u8>>>,
    prefixes: Vec<String>,
}

impl KeyColumns {
    fn push(&mut self, user_id: UserId, key: &NewKey, sealed: Option<Vec<u8>>) {
        self.user_ids.push(user_id);
        self.digests.push(key.digest().as_bytes().to_vec());
        self.sealed.push(sealed);
        self.prefixes.push(key.prefix().to_owned());
    }
}

impl Users {
    /// Which of these names exist.
    pub async fn ids_of(&self, usernames: &[String]) -> Result<UserIds, UserError> {
        let rows: Vec<(String, UserId)> =
            sqlx::query_as("SELECT username, user_id FROM users WHERE username = ANY($1)")
                .bind(usernames)
                .fetch_all(&self.pool)
                .await?;
        Ok(rows.into_iter().collect())
    }

    /// Which of these keys are in use, and whose they are.
    pub async fn owners_of(&self, digests: &[KeyDigest]) -> Result<KeyOwners, UserError> {
        let bytes: Vec<&[u8]> = digests
            .iter()
            .map(|digest| &digest.as_bytes()[..])
            .collect();
        let rows: Vec<([u8; 32], UserId)> =
            sqlx::query_as("SELECT digest, user_id FROM api_keys WHERE digest = ANY($1)")
                .bind(bytes)
                .fetch_all(&self.pool)
                .await?;
        let owners = rows.into_iter();
        Ok(owners
            .map(|(digest, user_id)| (KeyDigest::from_bytes(digest), user_id))
            .collect())
    }

    /// Creates all of them in one transaction, or none.
    pub async fn create_many(&self, keys: &KeyRing, users: Vec<NewUser>) -> Result<(), UserError> {
        let keys = keys.clone();
        in_transaction(&self.pool, &self.actor, move |tx| {
            Box::pin(async move {
                let user_ids = draw_user_ids(tx, users.len()).await?;
                let mut columns = KeyColumns::default();
                for (user_id, user) in user_ids.iter().zip(&users) {
                    columns.push(*user_id, &user.api_key, keys.seal(user.api_key.expose()));
                }
                // Keys first, as for a single user.
                insert_keys(tx, columns).await?;
                insert_users(tx, &user_ids, users).await
            })
        })
        .await
    }

    /// Changes all of them in one transaction, or none.
    pub async fn update_many(
        &self,
        keys: &KeyRing,
        changes: Vec<ImportedChange>,
    ) -> Result<(), UserError> {
        let keys = keys.clone();
        in_transaction(&self.pool, &self.actor, move |tx| {
            Box::pin(async move {
                lock_users(tx, &changes).await?;
                update_users(tx, &changes).await?;
                let mut columns = KeyColumns::default();
                for change in &changes {
                    if let Some(key) = &change.api_key {
                        columns.push(change.user_id, key, keys.seal(key.expose()));
                    }
                }
                replace_keys(tx, columns).await
            })
        })
        .await
    }
}

async fn draw_user_ids(tx: &mut PgConnection, count: usize) -> Result<Vec<UserId>, UserError> {
    let ids = sqlx::query_scalar(
        "SELECT nextval(pg_get_serial_sequence('users', 'user_id')) FROM generate_series(1, $1)",
    )
    .bind(i64::try_from(count).unwrap_or(i64::MAX))
    .fetch_all(tx)
    .await?;
    Ok(ids)
}

async fn insert_keys(tx: &mut PgConnection, keys: KeyColumns) -> Result<(), UserError> {
    sqlx::query(
        "INSERT INTO api_keys (user_id, digest, sealed, prefix)
         SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bytea[], $4::text[])",
    )
    .bind(keys.user_ids)
    .bind(keys.digests)
    .bind(keys.sealed)
    .bind(keys.prefixes)
    .execute(tx)
    .await?;
    Ok(())
}

async fn insert_users(
    tx: &mut PgConnection,
    user_ids: &[UserId],
    users: Vec<NewUser>,
) -> Result<(), UserError> {
    let is_active: Vec<bool> = users.iter().map(|user| user.is_active).collect();
    let quotas: Vec<i32> = users.iter().map(|user| user.daily_quota).collect();
    let names: Vec<String> = users.into_iter().map(|user| user.username).collect();
    sqlx::query(
        "INSERT INTO users (user_id, username, is_active, daily_quota) OVERRIDING SYSTEM VALUE
         SELECT * FROM unnest($1::bigint[], $2::text[], $3::boolean[], $4::integer[])",
    )
    .bind(user_ids)
    .bind(names)
    .bind(is_active)
    .bind(quotas)
    .execute(tx)
    .await?;
    Ok(())
}

/// In the order of the ids, so that two imports cannot deadlock.
async fn lock_users(tx: &mut PgConnection, changes: &[ImportedChange]) -> Result<(), UserError> {
    let user_ids: Vec<UserId> = changes.iter().map(|change| change.user_id).collect();
    let found: Vec<UserId> = sqlx::query_scalar(
        "SELECT user_id FROM users WHERE user_id = ANY($1) ORDER BY user_id FOR UPDATE",
    )
    .bind(&user_ids)
    .fetch_all(tx)
    .await?;
    match user_ids.iter().find(|id| found.binary_search(id).is_err()) {
        Some(gone) => Err(UserError::NotFound(*gone)),
        None => Ok(()),
    }
}

async fn update_users(tx: &mut PgConnection, changes: &[ImportedChange]) -> Result<(), UserError> {
    let user_ids: Vec<UserId> = changes.iter().map(|change| change.user_id).collect();
    let is_active: Vec<Option<bool>> = changes.iter().map(|change| change.is_active).collect();
    let quotas: Vec<Option<i32>> = changes.iter().map(|change| change.daily_quota).collect();
    sqlx::query(
        "UPDATE users SET is_active = coalesce(given.is_active, users.is_active),
                          daily_quota = coalesce(given.daily_quota, users.daily_quota)
         FROM unnest($1::bigint[], $2::boolean[], $3::integer[]) AS given (user_id, is_active, daily_quota)
         WHERE users.user_id = given.user_id",
    )
    .bind(user_ids)
    .bind(is_active)
    .bind(quotas)
    .execute(tx)
    .await?;
    Ok(())
}

/// A key that is the user's current one already stays: importing the same file twice changes nothing.
async fn replace_keys(tx: &mut PgConnection, keys: KeyColumns) -> Result<(), UserError> {
    if keys.user_ids.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "WITH given AS MATERIALIZED (
             SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bytea[], $4::text[])
                 AS given (user_id, digest, sealed, prefix)
             WHERE NOT EXISTS (
                 SELECT FROM api_keys
                 WHERE api_keys.user_id = given.user_id AND api_keys.digest = given.digest
                   AND expires_at IS NULL)
         ), replaced AS (
             DELETE FROM api_keys USING given WHERE api_keys.user_id = given.user_id RETURNING 1
         )
         INSERT INTO api_keys (user_id, digest, sealed, prefix)
         SELECT given.* FROM given, (SELECT count(*) FROM replaced) AS after_replacing",
    )
    .bind(keys.user_ids)
    .bind(keys.digests)
    .bind(keys.sealed)
    .bind(keys.prefixes)
    .execute(tx)
    .await?;
    Ok(())
}
