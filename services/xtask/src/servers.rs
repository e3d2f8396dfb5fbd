//! The broker and the database: private ones, or those that the environment names.

use std::env;
use std::thread;

use anyhow::{Context as _, Result, bail};
use test_support::servers::{
    Management, Postgres, PostgresOptions, RabbitMq, RabbitMqOptions, packages, psql,
};

use crate::workspace::State;

const DATABASE: &str = "identity_sync";
/// Services share no database.
const USER_SERVICE_DATABASE: &str = "user_service";
/// Names user-service's database where it is not one beside `DATABASE_URL`'s.
const USER_SERVICE_DATABASE_VAR: &str = "USER_SERVICE_DATABASE_URL";

/// The two servers; private ones stop with this.
#[derive(Debug)]
pub struct Servers {
    rabbitmq: Source<RabbitMq>,
    postgres: Source<Postgres>,
}

#[derive(Debug)]
enum Source<S> {
    Private(S),
    Given(String),
}

impl<S> Source<S> {
    fn url(&self, of_private: impl Fn(&S) -> String) -> String {
        match self {
            Self::Private(server) => of_private(server),
            Self::Given(url) => url.clone(),
        }
    }
}

impl Servers {
    /// The servers named by `RABBITMQ_URL` and `DATABASE_URL`, else private ones.
    pub fn start(state: &State) -> Result<Self> {
        let (rabbitmq, postgres) = (given("RABBITMQ_URL"), given("DATABASE_URL"));
        if rabbitmq.is_none() || postgres.is_none() {
            packages::ensure()?;
        }
        thread::scope(|scope| {
            let broker = scope.spawn(|| rabbitmq.map_or_else(|| private_rabbitmq(state), Ok));
            let postgres = postgres.map_or_else(|| private_postgres(state), Ok)?;
            let rabbitmq = broker.join().ok().context("starting RabbitMQ panicked")??;
            Ok(Self { rabbitmq, postgres })
        })
    }

    /// Private servers in any case, for data that need not be safe.
    pub fn start_for_tests(state: &State) -> Result<(RabbitMq, Postgres)> {
        println!("Starting RabbitMQ and PostgreSQL …");
        let postgres = Postgres::start(&state.join("postgres"), &PostgresOptions::for_tests())?;
        let rabbitmq = RabbitMq::start(&state.join("rabbitmq"), &RabbitMqOptions::default())?;
        Ok((rabbitmq, postgres))
    }

    /// Private servers in any case, as durable as in production: what safety costs is part of what is measured.
    pub fn start_for_benchmarks(state: &State) -> Result<(RabbitMq, Postgres)> {
        eprintln!("Starting RabbitMQ and PostgreSQL …");
        let postgres =
            Postgres::start(&state.join("postgres"), &PostgresOptions::for_benchmarks())?;
        let rabbitmq = RabbitMq::start(&state.join("rabbitmq"), &RabbitMqOptions::default())?;
        Ok((rabbitmq, postgres))
    }

    /// `RABBITMQ_URL` of the services.
    pub fn rabbitmq_url(&self) -> String {
        self.rabbitmq.url(|broker| broker.amqp_url("/"))
    }

    /// `DATABASE_URL` of the services.
    pub fn database_url(&self) -> String {
        self.postgres.url(|postgres| postgres.url(DATABASE))
    }

    /// `DATABASE_URL` of user-service: its own database on the same server, unless the environment names one.
    pub fn user_service_database_url(&self) -> Result<String> {
        match &self.postgres {
            Source::Private(postgres) => Ok(postgres.url(USER_SERVICE_DATABASE)),
            Source::Given(url) => match env::var(USER_SERVICE_DATABASE_VAR) {
                Ok(url) if !url.is_empty() => Ok(url),
                _ => database_beside(url),
            },
        }
    }

    /// The management API, of a private broker.
    pub fn management(&self) -> Option<Management> {
        match &self.rabbitmq {
            Source::Private(broker) => Some(broker.management()),
            Source::Given(_) => None,
        }
    }

    /// An error that says which server ended and what it wrote last.
    pub fn check(&self) -> Result<()> {
        if let Source::Private(broker) = &self.rabbitmq
            && let Some(status) = broker.unexpected_end()?
        {
            bail!(
                "RabbitMQ ended: {status}; its log is {}",
                broker.log().display()
            );
        }
        if let Source::Private(postgres) = &self.postgres
            && let Some(status) = postgres.unexpected_end()?
        {
            bail!(
                "PostgreSQL ended: {status}; its log is {}",
                postgres.log().display()
            );
        }
        Ok(())
    }

    /// Stops the private servers.
    pub fn stop(&mut self) -> Result<()> {
        if let Source::Private(broker) = &mut self.rabbitmq {
            broker.stop()?;
        }
        if let Source::Private(postgres) = &mut self.postgres {
            postgres.stop()?;
        }
        Ok(())
    }
}

fn given<S>(variable: &str) -> Option<Source<S>> {
    env::var(variable)
        .ok()
        .filter(|url| !url.is_empty())
        .map(Source::Given)
}

fn private_rabbitmq(state: &State) -> Result<Source<RabbitMq>> {
    let broker = RabbitMq::start(&state.join("rabbitmq"), &RabbitMqOptions::default())?;
    Ok(Source::Private(broker))
}

fn private_postgres(state: &State) -> Result<Source<Postgres>> {
    let postgres = Postgres::start(&state.join("postgres"), &PostgresOptions::default())?;
    postgres.ensure_database(DATABASE)?;
    postgres.ensure_database(USER_SERVICE_DATABASE)?;
    Ok(Source::Private(postgres))
}

/// The URL of user-service's database on the server of `url`, where it is made unless it exists.
fn database_beside(url: &str) -> Result<String> {
    let name = USER_SERVICE_DATABASE;
    let exists = format!("SELECT 1 FROM pg_database WHERE datname = '{name}'");
    if psql(url, &exists)?.is_empty() {
        psql(url, &format!("CREATE DATABASE {name}")).with_context(|| {
            format!("cannot create user-service's database; set {USER_SERVICE_DATABASE_VAR} to one")
        })?;
    }
    with_database(url, name)
        .context("DATABASE_URL is not like postgres://user:password@host:port/name")
}

/// The same URL with another database.
fn with_database(url: &str, name: &str) -> Option<String> {
    let (address, parameters) = match url.split_once('?') {
        Some((address, parameters)) => (address, format!("?{parameters}")),
        None => (url, String::new()),
    };
    let (server, _) = address.rsplit_once('/')?;
    Some(format!("{server}/{name}{parameters}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_database_of_a_url_is_replaced() {
        for (url, expected) in [
            ("postgres://u:p@h:1/a", "postgres://u:p@h:1/b"),
            (
                "postgres://u:p@h/a?sslmode=require&x=/y",
                "postgres://u:p@h/b?sslmode=require&x=/y",
            ),
        ] {
            assert_eq!(with_database(url, "b").as_deref(), Some(expected));
        }
    }
}
