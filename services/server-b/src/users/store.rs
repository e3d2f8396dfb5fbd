//! One user at a time.

use garde::Validate;
use service_runtime::database::Traced;
use sqlx::{PgConnection, PgPool, Postgres, QueryBuilder};
use wire_contract::UserId;

use super::{
    IfVersion, MAX_PAGE, NewUser, Rotation, User, UserChanges, UserError, UserFilter, UserPage,
};
use crate::actor::{Actor, in_transaction};
use crate::keys::KeyRing;

/// A statement about users followed by the columns of [`User`], and what comes after them.
macro_rules! user_sql {
    ($before:literal, $after:literal) => {
        concat!(
            $before,
            " user_id, username, is_active, daily_quota, version, created_at, updated_at,
              (SELECT prefix FROM api_keys
               WHERE api_keys.user_id = users.user_id AND (expires_at IS NULL OR expires_at > now())
               ORDER BY expires_at DESC NULLS FIRST, key_id DESC LIMIT 1) AS key_prefix ",
            $after
        )
    };
}

/// The users of the database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Users {
    pub(super) pool: PgPool,
    pub(super) actor: Actor,
}

impl Users {
    /// Over a pool; changes are logged as the actor's.
    #[must_use]
    pub fn new(pool: PgPool, actor: Actor) -> Self {
        Self { pool, actor }
    }

    /// Creates a user with its key: one event for the replicas.
    pub async fn create(&self, keys: &KeyRing, user: NewUser) -> Result<User, UserError> {
        user.validate()?;
        let sealed = keys.seal(user.api_key.expose());
        in_transaction(&self.pool, &self.actor, move |tx| {
            Box::pin(async move {
                // The key first (its foreign key is deferred): the user's row then carries it from
                // the start, and no replica sees a user without a key.
                let user_id = insert_first_key(tx, &user, sealed).await?;
                insert_user(tx, user_id, user).await
            })
        })
        .await
    }

    /// One user.
    pub async fn get(&self, user_id: UserId) -> Result<User, UserError> {
        sqlx::query_as(user_sql!("SELECT", "FROM users WHERE user_id = $1"))
            .bind(user_id)
            .fetch_optional(&self.pool)
            .await?
            .ok_or(UserError::NotFound(user_id))
    }

    /// The user of that name.
    pub async fn named(&self, username: &str) -> Result<Option<User>, UserError> {
        let query = sqlx::query_as(user_sql!("SELECT", "FROM users WHERE username = $1"));
        Ok(query.bind(username).fetch_optional(&self.pool).await?)
    }

    /// Up to `limit` users (1 to [`MAX_PAGE`]) after `cursor` that the filter lets through.
    pub async fn list(
        &self,
        cursor: Option<UserId>,
        limit: u16,
        filter: &UserFilter,
    ) -> Result<UserPage, UserError> {
        if !(1..=MAX_PAGE).contains(&limit) {
            return Err(UserError::Invalid {
                field: "limit".to_owned(),
                message: format!("must be from 1 to {MAX_PAGE}"),
            });
        }
        // Only the conditions that are asked for: an optional one would make its plan a full scan.
        let mut query =
            QueryBuilder::<Postgres>::new(user_sql!("SELECT", "FROM users WHERE user_id > "));
        query.push_bind(cursor.unwrap_or(UserId::MIN));
        filter.push_conditions(&mut query)?;
        // One more is asked for than is shown: it tells whether there is a next page.
        query.push(" ORDER BY user_id LIMIT ");
        query.push_bind(i64::from(limit) + 1);
        let mut users: Vec<User> = query.build_query_as().fetch_all(&self.pool).await?;
        let more = users.len() > usize::from(limit);
        users.truncate(usize::from(limit));
        let next_cursor = users.last().map(|user| user.user_id).filter(|_| more);
        Ok(UserPage { users, next_cursor })
    }

    /// Changes what `changes` names, and returns the user as it is then.
    pub async fn update(
        &self,
        user_id: UserId,
        changes: UserChanges,
        if_version: IfVersion,
    ) -> Result<User, UserError> {
        changes.validate()?;
        in_transaction(&self.pool, &self.actor, move |tx| {
            Box::pin(async move {
                lock(tx, user_id, if_version).await?;
                let updated = sqlx::query_as(user_sql!(
                    "UPDATE users
                     SET username = coalesce($2, username), is_active = coalesce($3, is_active),
                         daily_quota = coalesce($4, daily_quota)
                     WHERE user_id = $1 RETURNING",
                    ""
                ))
                .bind(user_id)
                .bind(changes.username)
                .bind(changes.is_active)
                .bind(changes.daily_quota)
                .fetch_one(tx)
                .traced("UPDATE", "users")
                .await?;
                Ok(updated)
            })
        })
        .await
    }

    /// Deletes a user and its keys.
    pub async fn delete(&self, user_id: UserId, if_version: IfVersion) -> Result<(), UserError> {
        in_transaction(&self.pool, &self.actor, move |tx| {
            Box::pin(async move {
                lock(tx, user_id, if_version).await?;
                sqlx::query("DELETE FROM users WHERE user_id = $1")
                    .bind(user_id)
                    .execute(tx)
                    .traced("DELETE", "users")
                    .await?;
                Ok(())
            })
        })
        .await
    }

    /// Gives a user another key. All its other keys are refused from then on; with an overlap they are accepted that much
    /// longer, but none longer than it was anyway.
    pub async fn rotate_key(
        &self,
        keys: &KeyRing,
        user_id: UserId,
        rotation: Rotation,
        if_version: IfVersion,
    ) -> Result<User, UserError> {
        rotation.validate()?;
        let sealed = keys.seal(rotation.api_key.expose());
        in_transaction(&self.pool, &self.actor, move |tx| {
            Box::pin(async move {
                // Two rotations at once take turns here.
                lock(tx, user_id, if_version).await?;
                replace_key(tx, user_id, &rotation, sealed).await?;
                let rotated = sqlx::query_as(user_sql!("SELECT", "FROM users WHERE user_id = $1"));
                Ok(rotated.bind(user_id).fetch_one(tx).await?)
            })
        })
        .await
    }
}

/// Holds the user's row until the transaction ends, if it is there and has one of the versions.
pub(super) async fn lock(
    tx: &mut PgConnection,
    user_id: UserId,
    if_version: IfVersion,
) -> Result<(), UserError> {
    let version: i64 =
        sqlx::query_scalar("SELECT version FROM users WHERE user_id = $1 FOR UPDATE")
            .bind(user_id)
            .fetch_optional(tx)
            .await?
            .ok_or(UserError::NotFound(user_id))?;
    match if_version {
        Some(wanted) if !wanted.contains(&version) => Err(UserError::Changed { version }),
        _ => Ok(()),
    }
}

/// Draws the id of the user to be, and gives it the key.
async fn insert_first_key(
    tx: &mut PgConnection,
    user: &NewUser,
    sealed: Option<Vec<u8>>,
) -> Result<UserId, UserError> {
    let user_id = sqlx::query_scalar(
        "INSERT INTO api_keys (user_id, digest, sealed, prefix, expires_at)
         VALUES (nextval(pg_get_serial_sequence('users', 'user_id')), $1, $2, $3, $4)
         RETURNING user_id",
    )
    .bind(user.api_key.digest().as_bytes().as_slice())
    .bind(sealed)
    .bind(user.api_key.prefix())
    .bind(user.key_expires_at)
    .fetch_one(tx)
    .await?;
    Ok(user_id)
}

async fn insert_user(
    tx: &mut PgConnection,
    user_id: UserId,
    user: NewUser,
) -> Result<User, UserError> {
    let created = sqlx::query_as(user_sql!(
        "INSERT INTO users (user_id, username, is_active, daily_quota)
         OVERRIDING SYSTEM VALUE VALUES ($1, $2, $3, $4) RETURNING",
        ""
    ))
    .bind(user_id)
    .bind(user.username)
    .bind(user.is_active)
    .bind(user.daily_quota)
    .fetch_one(tx)
    .traced("INSERT", "users")
    .await?;
    Ok(created)
}

/// One statement, so one event: triggers fire at its end. Counting makes the database remove old keys
/// before it inserts the new one, which may be one of them, and only one may be current.
async fn replace_key(
    tx: &mut PgConnection,
    user_id: UserId,
    rotation: &Rotation,
    sealed: Option<Vec<u8>>,
) -> Result<(), UserError> {
    let key = &rotation.api_key;
    sqlx::query(
        "WITH overlapping AS (
             UPDATE api_keys SET expires_at = now() + make_interval(secs => $5::bigint)
             WHERE user_id = $1 AND $5::bigint > 0
               AND (expires_at IS NULL OR expires_at > now() + make_interval(secs => $5::bigint)) RETURNING 1
         ), removed AS (
             DELETE FROM api_keys
             WHERE user_id = $1 AND ($5::bigint = 0 OR expires_at <= now()) RETURNING 1
         )
         INSERT INTO api_keys (user_id, digest, sealed, prefix, expires_at)
         SELECT $1, $2, $3, $4, $6
         FROM (SELECT count(*) FROM overlapping) AS after_update,
              (SELECT count(*) FROM removed) AS after_delete",
    )
    .bind(user_id)
    .bind(key.digest().as_bytes().as_slice())
    .bind(sealed)
    .bind(key.prefix())
    .bind(i64::try_from(rotation.overlap_seconds).unwrap_or(i64::MAX))
    .bind(rotation.key_expires_at)
    .execute(tx)
    .traced("INSERT", "api_keys")
    .await?;
    Ok(())
}
