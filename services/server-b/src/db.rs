//! The database: pool and migrations.

use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use secrecy::ExposeSecret;
use service_runtime::config::DatabaseArgs;
use sqlx::PgPool;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

/// Embedded migrations. They expand first and contract a release later.
pub static MIGRATOR: Migrator = sqlx::migrate!("./migrations");

/// A request that cannot have a connection by then is better refused.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// A pool that connects when it is first used.
pub fn pool(args: &DatabaseArgs) -> anyhow::Result<PgPool> {
    let options = PgConnectOptions::from_str(args.database_url.expose_secret())
        // The text of the error may quote the URL, and so the password.
        .map_err(|_| anyhow::anyhow!("DATABASE_URL is not a URL of the form postgres://user:password@host:port/name"))?
        .application_name("server-b");
    Ok(PgPoolOptions::new()
        .max_connections(args.database_max_connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_lazy_with(options))
}

/// Brings the schema up to date. One process migrates (advisory lock), the others wait for it.
pub async fn migrate(pool: &PgPool) -> anyhow::Result<()> {
    MIGRATOR
        .run(pool)
        .await
        .context("cannot migrate the database")
}
