//! The keys that a user has, without the keys themselves.

use serde::Serialize;
use service_runtime::database::Traced;
use time::OffsetDateTime;
use utoipa::ToSchema;
use wire_contract::UserId;

use super::store::lock;
use super::{IfVersion, UserError, Users};
use crate::actor::in_transaction;

/// An API key as people see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema, sqlx::FromRow)]
pub struct UserKey {
    /// Names it.
    pub key_id: i64,
    /// How it begins.
    pub prefix: String,
    /// Whether it is accepted until it is replaced; a user has one such key at most.
    pub current: bool,
    /// Until when it is accepted; `None` for the current one.
    #[serde(with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    /// When an SMS with it last came to server B, roughly.
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_used_at: Option<OffsetDateTime>,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// Id of the key that seals it; `None` if only its digest is kept.
    pub sealing_key: Option<i32>,
}

impl Users {
    /// The user's keys, the current one first; those that have expired stay until the next rotation.
    pub async fn keys(&self, user_id: UserId) -> Result<Vec<UserKey>, UserError> {
        let keys: Vec<UserKey> = sqlx::query_as(
            "SELECT key_id, prefix, expires_at IS NULL AS current, expires_at, last_used_at, created_at,
                    get_byte(sealed, 0) AS sealing_key
             FROM api_keys WHERE user_id = $1 ORDER BY expires_at DESC NULLS FIRST, key_id DESC",
        )
        .bind(user_id)
        .fetch_all(&self.pool)
        .await?;
        if keys.is_empty() {
            // No keys, or no user?
            self.get(user_id).await?;
        }
        Ok(keys)
    }

    /// Refuses one key from now on.
    pub async fn revoke_key(
        &self,
        user_id: UserId,
        key_id: i64,
        if_version: IfVersion,
    ) -> Result<(), UserError> {
        in_transaction(&self.pool, &self.actor, move |tx| {
            Box::pin(async move {
                lock(tx, user_id, if_version).await?;
                let deleted =
                    sqlx::query("DELETE FROM api_keys WHERE user_id = $1 AND key_id = $2")
                        .bind(user_id)
                        .bind(key_id)
                        .execute(tx)
                        .traced("DELETE", "api_keys")
                        .await?;
                match deleted.rows_affected() {
                    0 => Err(UserError::KeyNotFound(key_id)),
                    _ => Ok(()),
                }
            })
        })
        .await
    }
}
