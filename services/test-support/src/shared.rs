//! The servers that `cargo xtask test` shares among all tests, and each test's own place on them.

use std::env;
use std::sync::OnceLock;

use anyhow::{Context as _, Result};

use crate::servers::{Management, amqp_url, psql, random_hex};

/// Names the shared broker's URL up to the virtual host, `amqp://user:password@host:port`.
pub const RABBITMQ_VAR: &str = "TEST_RABBITMQ_URL";
/// Names the shared broker's management API, `http://user:password@host:port`.
pub const MANAGEMENT_VAR: &str = "TEST_RABBITMQ_MANAGEMENT_URL";
/// Names a database of the shared PostgreSQL whose user may create others, `postgres://user:password@host:port/postgres`.
pub const DATABASE_VAR: &str = "TEST_DATABASE_URL";
/// Names the directory of our binaries.
pub const BIN_DIR_VAR: &str = "IDENTITY_SYNC_BIN_DIR";
/// Path of the OpenTelemetry Collector that `cargo xtask test` has built, for the tests that need it.
pub const COLLECTOR_VAR: &str = "OTELCOL";
/// Path of Schemathesis, which `cargo xtask test` has installed, for the tests that need it.
pub const SCHEMATHESIS_VAR: &str = "SCHEMATHESIS";

/// The servers of this test run. Tests that hurt a server start their own instead.
#[derive(Debug)]
pub struct TestServers {
    rabbitmq: String,
    database: String,
    management: Management,
}

impl TestServers {
    /// The servers that `cargo xtask test` has started.
    ///
    /// # Panics
    /// When the test was started otherwise.
    #[must_use]
    pub fn shared() -> &'static Self {
        static SERVERS: OnceLock<TestServers> = OnceLock::new();
        SERVERS.get_or_init(|| match Self::from_environment() {
            Ok(servers) => servers,
            Err(error) => panic!("{error:#}"),
        })
    }

    fn from_environment() -> Result<Self> {
        Ok(Self {
            rabbitmq: variable(RABBITMQ_VAR)?.trim_end_matches('/').to_owned(),
            database: variable(DATABASE_VAR)?,
            management: Management::from_url(&variable(MANAGEMENT_VAR)?)?,
        })
    }

    /// An empty database of one's own.
    ///
    /// # Panics
    /// When the server refuses.
    #[must_use]
    pub fn fresh_database(&self) -> TestDatabase {
        let name = unique_name();
        psql(&self.database, &format!("CREATE DATABASE {name}")).expect("creating a test database");
        let (server, _) = self
            .database
            .rsplit_once('/')
            .expect("a database URL ends in /name");
        TestDatabase {
            admin: self.database.clone(),
            url: format!("{server}/{name}"),
            name,
        }
    }

    /// An empty virtual host of one's own.
    ///
    /// # Panics
    /// When the broker refuses.
    #[must_use]
    pub fn fresh_vhost(&self) -> TestVhost {
        let name = unique_name();
        self.management
            .create_vhost(&name)
            .expect("creating a test vhost");
        let url = amqp_url(&self.rabbitmq, &name);
        TestVhost {
            management: self.management.clone(),
            url,
            name,
        }
    }
}

/// A database that is dropped with this guard, whoever is still connected.
#[derive(Debug)]
pub struct TestDatabase {
    admin: String,
    url: String,
    name: String,
}

impl TestDatabase {
    /// The URL with user and password.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Runs SQL by `psql`, see [`psql`].
    pub fn sql(&self, sql: &str) -> Result<String> {
        psql(&self.url, sql)
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let drop = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        if let Err(error) = psql(&self.admin, &drop) {
            eprintln!("{error:#}");
        }
    }
}

/// A virtual host that is deleted with this guard, with all queues and connections.
#[derive(Debug)]
pub struct TestVhost {
    management: Management,
    url: String,
    name: String,
}

impl TestVhost {
    /// The AMQP URL with user, password and virtual host.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The name, for calls of the management API.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The broker's management API.
    #[must_use]
    pub fn management(&self) -> &Management {
        &self.management
    }
}

impl Drop for TestVhost {
    fn drop(&mut self) {
        if let Err(error) = self.management.delete_vhost(&self.name) {
            eprintln!("{error:#}");
        }
    }
}

pub(crate) fn variable(name: &str) -> Result<String> {
    let hint = || format!("{name} is not set: run the tests with `cargo xtask test [filter]`");
    env::var(name).with_context(hint)
}

fn unique_name() -> String {
    let random = random_hex().expect("the kernel gives random bytes");
    format!("test_{}", &random[..16])
}
