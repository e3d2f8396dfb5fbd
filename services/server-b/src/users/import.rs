//! Many users in one transaction: rows are staged in a temporary table, checked there as a whole, and then applied a part
//! at a time. The database, not this process, finds what appears twice, so memory stays flat however long the file is.

use clap::ValueEnum;
use sqlx::{PgConnection, PgPool, Postgres, Transaction};

use super::{NewUser, UserError};
use crate::actor::{self, Actor};
use crate::keys::{KeyRing, NewKey};

/// What to do with a username that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnConflict {
    /// Import nothing and name the lines
    Fail,
    /// Leave the user as it is
    Skip,
    /// Set what the file says; a given key replaces all the user's keys
    Update,
}

/// What an import says about a user; `None` stays as it is, or takes the default.
#[derive(Debug)]
pub struct ImportRow {
    /// In the file.
    pub line: u64,
    /// Unique name.
    pub username: String,
    /// Whether sends are accepted.
    pub is_active: Option<bool>,
    /// SMS segments a UTC day.
    pub daily_quota: Option<i32>,
    /// Its key from now on; all others are refused.
    pub api_key: Option<NewKey>,
}

/// A key that was generated for a new user.
#[derive(Debug)]
pub struct ImportedKey {
    /// Whose it is.
    pub username: String,
    /// The key.
    pub api_key: NewKey,
}

/// Why a row cannot be imported.
#[derive(Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Conflict {
    /// Where the row is.
    pub line: i64,
    /// Which column is at fault.
    pub column: String,
    /// What is wrong with it.
    pub message: String,
    /// How many there are in all.
    pub total: i64,
}

/// What became of a part of the rows.
#[derive(Debug, Default)]
pub struct Applied {
    /// Users that were created.
    pub created: u64,
    /// Users that were updated.
    pub updated: u64,
    /// Rows of users that stay as they are.
    pub skipped: u64,
    /// The keys that were generated.
    pub keys: Vec<ImportedKey>,
}

/// An import under way. Dropped before [`Self::commit`], it leaves nothing behind.
#[derive(Debug)]
pub struct Import {
    tx: Transaction<'static, Postgres>,
    on_conflict: OnConflict,
    staged: i64,
}

const STAGE: &str = "
    CREATE TEMPORARY TABLE import_rows (
        n           bigint PRIMARY KEY,
        line        bigint NOT NULL,
        username    text NOT NULL,
        is_active   boolean,
        daily_quota integer,
        digest      bytea,
        sealed      bytea,
        prefix      text,
        -- Of the user that exists, or is made.
        user_id     bigint,
        is_new      boolean
    ) ON COMMIT DROP";

/// `$1`: whether users that exist are a fault, `$2`: whether their rows are skipped, `$3`: how many faults to tell.
const CONFLICTS: &str = "
    SELECT line, \"column\", message, count(*) OVER () AS total FROM (
    SELECT line, 'username' AS \"column\", 'is the same as in line ' || earlier AS message FROM (
        SELECT line, lag(line) OVER (PARTITION BY username ORDER BY n) AS earlier FROM import_rows
    ) AS names WHERE earlier IS NOT NULL
    UNION ALL
    SELECT line, 'api_key', 'is the same as in line ' || earlier FROM (
        SELECT line, lag(line) OVER (PARTITION BY digest ORDER BY n) AS earlier FROM import_rows WHERE digest IS NOT NULL
    ) AS keys WHERE earlier IS NOT NULL
    UNION ALL
    SELECT line, 'username', 'exists already as user ' || user_id || ' (see --on-conflict)'
    FROM import_rows WHERE $1 AND NOT is_new
    UNION ALL
    SELECT line, 'api_key', 'is in use by user ' || api_keys.user_id
    FROM import_rows JOIN api_keys USING (digest)
    WHERE api_keys.user_id IS DISTINCT FROM import_rows.user_id AND NOT ($2 AND NOT is_new)
    ) AS conflicts ORDER BY line LIMIT $3";

impl Import {
    /// Begins the transaction.
    pub async fn begin(
        pool: &PgPool,
        actor: &Actor,
        on_conflict: OnConflict,
    ) -> Result<Self, UserError> {
        let mut tx = actor::begin(pool, actor).await?;
        sqlx::query(STAGE).execute(&mut *tx).await?;
        Ok(Self {
            tx,
            on_conflict,
            staged: 0,
        })
    }

    /// Rows so far.
    #[must_use]
    pub fn staged(&self) -> u64 {
        self.staged.unsigned_abs()
    }

    /// Takes rows in, some thousand at a time.
    pub async fn stage(&mut self, keys: &KeyRing, rows: Vec<ImportRow>) -> Result<(), UserError> {
        let count = i64::try_from(rows.len()).unwrap_or(i64::MAX);
        let mut lines = Vec::with_capacity(rows.len());
        let (mut names, mut active, mut quotas) = (Vec::new(), Vec::new(), Vec::new());
        let mut columns = KeyColumns::default();
        for row in rows {
            lines.push(i64::try_from(row.line).unwrap_or(i64::MAX));
            names.push(row.username);
            active.push(row.is_active);
            quotas.push(row.daily_quota);
            columns.push(keys, row.api_key.as_ref());
        }
        sqlx::query(
            "INSERT INTO import_rows (n, line, username, is_active, daily_quota, digest, sealed, prefix)
             SELECT $8 + ordinality, line, username, is_active, daily_quota, digest, sealed, prefix
             FROM unnest($1::bigint[], $2::text[], $3::boolean[], $4::integer[], $5::bytea[], $6::bytea[], $7::text[])
                  WITH ORDINALITY AS given (line, username, is_active, daily_quota, digest, sealed, prefix, ordinality)",
        )
        .bind(lines)
        .bind(names)
        .bind(active)
        .bind(quotas)
        .bind(columns.digests)
        .bind(columns.sealed)
        .bind(columns.prefixes)
        .bind(self.staged)
        .execute(&mut *self.tx)
        .await?;
        self.staged += count;
        Ok(())
    }

    /// Finds which users exist, and what of all rows cannot be: up to `limit`, by line.
    pub async fn conflicts(&mut self, limit: i64) -> Result<Vec<Conflict>, UserError> {
        let tx = &mut *self.tx;
        sqlx::query("ANALYZE import_rows").execute(&mut *tx).await?;
        if self.on_conflict == OnConflict::Update {
            // All at once and in order, so that two imports cannot deadlock.
            sqlx::query(
                "SELECT 1 FROM users WHERE username IN (SELECT username FROM import_rows)
                 ORDER BY user_id FOR UPDATE",
            )
            .execute(&mut *tx)
            .await?;
        }
        sqlx::query(
            "UPDATE import_rows SET user_id = found.user_id, is_new = found.user_id IS NULL
             FROM (SELECT n, users.user_id FROM import_rows LEFT JOIN users USING (username)) AS found
             WHERE import_rows.n = found.n",
        )
        .execute(&mut *tx)
        .await?;
        let conflicts = sqlx::query_as(CONFLICTS)
            .bind(self.on_conflict == OnConflict::Fail)
            .bind(self.on_conflict == OnConflict::Skip)
            .bind(limit)
            .fetch_all(tx)
            .await?;
        Ok(conflicts)
    }

    /// The first line for which a key has to be generated.
    pub async fn first_without_key(&mut self) -> Result<Option<i64>, UserError> {
        let first =
            sqlx::query_scalar("SELECT min(line) FROM import_rows WHERE is_new AND digest IS NULL");
        Ok(first.fetch_one(&mut *self.tx).await?)
    }

    /// Makes or changes the users of the rows after the first `done`, up to `count`.
    pub async fn apply(
        &mut self,
        keys: &KeyRing,
        done: u64,
        count: u32,
    ) -> Result<Applied, UserError> {
        let from = i64::try_from(done).unwrap_or(i64::MAX);
        let part = Part {
            from,
            to: from.saturating_add(count.into()),
        };
        let tx = &mut *self.tx;
        let generated = part.generate_keys(tx, keys).await?;
        let created = part.create(tx).await?;
        let rest = part.existing(tx).await?;
        let (updated, skipped) = match self.on_conflict {
            OnConflict::Update => (part.update(tx).await?, 0),
            OnConflict::Fail | OnConflict::Skip => (0, rest),
        };
        Ok(Applied {
            created,
            updated,
            skipped,
            keys: generated,
        })
    }

    /// All of it, from now on.
    pub async fn commit(self) -> Result<(), UserError> {
        Ok(self.tx.commit().await?)
    }
}

/// Keys as columns; `None` where a row has none.
#[derive(Default)]
struct KeyColumns {
    digests: Vec<Option<Vec<u8>>>,
    sealed: Vec<Option<Vec<u8>>>,
    prefixes: Vec<Option<String>>,
}

impl KeyColumns {
    fn push(&mut self, ring: &KeyRing, key: Option<&NewKey>) {
        self.digests
            .push(key.map(|key| key.digest().as_bytes().to_vec()));
        self.sealed
            .push(key.and_then(|key| ring.seal(key.expose())));
        self.prefixes.push(key.map(|key| key.prefix().to_owned()));
    }
}

/// Some of the staged rows: those with `from < n <= to`.
#[derive(Clone, Copy)]
struct Part {
    from: i64,
    to: i64,
}

impl Part {
    async fn generate_keys(
        self,
        tx: &mut PgConnection,
        ring: &KeyRing,
    ) -> Result<Vec<ImportedKey>, UserError> {
        let rows: Vec<(i64, String)> = sqlx::query_as(
            "SELECT n, username FROM import_rows
             WHERE n > $1 AND n <= $2 AND is_new AND digest IS NULL ORDER BY n",
        )
        .bind(self.from)
        .bind(self.to)
        .fetch_all(&mut *tx)
        .await?;
        let (mut numbers, mut columns, mut keys) = (Vec::new(), KeyColumns::default(), Vec::new());
        for (n, username) in rows {
            let api_key = NewKey::generate();
            numbers.push(n);
            columns.push(ring, Some(&api_key));
            keys.push(ImportedKey { username, api_key });
        }
        sqlx::query(
            "UPDATE import_rows SET digest = given.digest, sealed = given.sealed, prefix = given.prefix
             FROM unnest($1::bigint[], $2::bytea[], $3::bytea[], $4::text[]) AS given (n, digest, sealed, prefix)
             WHERE import_rows.n = given.n",
        )
        .bind(numbers)
        .bind(columns.digests)
        .bind(columns.sealed)
        .bind(columns.prefixes)
        .execute(tx)
        .await?;
        Ok(keys)
    }

    /// Keys first, as for a single user. Their foreign key is checked a part at a time: all at the end would pile up.
    async fn create(self, tx: &mut PgConnection) -> Result<u64, UserError> {
        sqlx::query("SET CONSTRAINTS api_keys_user DEFERRED")
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "UPDATE import_rows SET user_id = nextval(pg_get_serial_sequence('users', 'user_id'))
             WHERE n > $1 AND n <= $2 AND is_new",
        )
        .bind(self.from)
        .bind(self.to)
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "INSERT INTO api_keys (user_id, digest, sealed, prefix)
             SELECT user_id, digest, sealed, prefix FROM import_rows WHERE n > $1 AND n <= $2 AND is_new",
        )
        .bind(self.from)
        .bind(self.to)
        .execute(&mut *tx)
        .await?;
        let created = sqlx::query(
            "INSERT INTO users (user_id, username, is_active, daily_quota) OVERRIDING SYSTEM VALUE
             SELECT user_id, username, coalesce(is_active, $3), coalesce(daily_quota, $4)
             FROM import_rows WHERE n > $1 AND n <= $2 AND is_new ORDER BY n",
        )
        .bind(self.from)
        .bind(self.to)
        .bind(NewUser::IS_ACTIVE)
        .bind(NewUser::DAILY_QUOTA)
        .execute(&mut *tx)
        .await?;
        sqlx::query("SET CONSTRAINTS api_keys_user IMMEDIATE")
            .execute(tx)
            .await?;
        Ok(created.rows_affected())
    }

    async fn existing(self, tx: &mut PgConnection) -> Result<u64, UserError> {
        let count: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM import_rows WHERE n > $1 AND n <= $2 AND NOT is_new",
        )
        .bind(self.from)
        .bind(self.to)
        .fetch_one(tx)
        .await?;
        Ok(count.unsigned_abs())
    }

    async fn update(self, tx: &mut PgConnection) -> Result<u64, UserError> {
        let updated = sqlx::query(
            "UPDATE users SET is_active = coalesce(given.is_active, users.is_active),
                              daily_quota = coalesce(given.daily_quota, users.daily_quota)
             FROM import_rows AS given
             WHERE n > $1 AND n <= $2 AND NOT is_new AND users.user_id = given.user_id",
        )
        .bind(self.from)
        .bind(self.to)
        .execute(&mut *tx)
        .await?;
        // A key that is the user's current one already stays: importing the same file twice changes nothing.
        sqlx::query(
            "WITH given AS MATERIALIZED (
                 SELECT user_id, digest, sealed, prefix FROM import_rows AS given
                 WHERE n > $1 AND n <= $2 AND NOT is_new AND digest IS NOT NULL AND NOT EXISTS (
                     SELECT FROM api_keys
                     WHERE api_keys.user_id = given.user_id AND api_keys.digest = given.digest
                       AND expires_at IS NULL)
             ), replaced AS (
                 DELETE FROM api_keys USING given WHERE api_keys.user_id = given.user_id RETURNING 1
             )
             INSERT INTO api_keys (user_id, digest, sealed, prefix)
             SELECT given.* FROM given, (SELECT count(*) FROM replaced) AS after_replacing",
        )
        .bind(self.from)
        .bind(self.to)
        .execute(tx)
        .await?;
        Ok(updated.rows_affected())
    }
}
