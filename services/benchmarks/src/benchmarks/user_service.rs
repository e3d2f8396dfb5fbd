//! `UserCreated` → row, beside a bare consumer with the same insert.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use test_support::servers::psql;
use test_support::{ServiceCommand, ServiceProcess, TestServers, try_eventually};

use crate::bare::consumer;
use crate::bench::{Bench, LONG};
use crate::measure::Cpu;
use crate::report::{Aim, Report};
use crate::stats;

const PRODUCT: &str = "user-service";
const BARE: &str = "bare consumer";
const PROGRAMS: &[&str] = &["user-service", "benchmarks", "rabbitmq", "postgresql"];
const RATE: &str = "events/s";

/// Events wait in the queue before either begins.
pub fn run(bench: &Bench) -> Result<Report> {
    let count = bench.pick(60_000, 2_000);
    let mut report = Report::new("user-service");
    for _ in bench.rounds() {
        let place = Place::with_events(count)?;
        let before = Cpu::now()?;
        let bare = consumer::user_created(&place.rabbitmq_url, &place.database_url, count);
        report.add(BARE, RATE, bench.block_on(bare)?);
        let used = Cpu::now()?.since(&before);
        report.add_cpu(BARE, &used, count, PROGRAMS);

        let place = Place::with_events(count)?;
        let before = Cpu::now()?;
        let (rate, used) = place.consumed_by_the_product(count, &before)?;
        report.add(PRODUCT, RATE, rate);
        report.add_cpu(PRODUCT, &used, count, PROGRAMS);
    }
    report.ratio(PRODUCT, BARE, RATE, Some(Aim::AtLeast(0.6)));
    report.ratio_of_cpu(PRODUCT, BARE);
    report.note(format!(
        "{count} events in the queue. The product: from its first commit to its last; bare: from the first delivery."
    ));
    Ok(report)
}

/// A database and a virtual host with waiting events.
struct Place {
    rabbitmq_url: String,
    database_url: String,
    _guards: (test_support::TestDatabase, test_support::TestVhost),
}

impl Place {
    fn with_events(count: u64) -> Result<Self> {
        let servers = TestServers::shared();
        let guards = (servers.fresh_database(), servers.fresh_vhost());
        let place = Self {
            rabbitmq_url: guards.1.url().to_owned(),
            database_url: guards.0.url().to_owned(),
            _guards: guards,
        };
        place.command(&["migrate"])?;
        let count = count.to_string();
        place.command(&["auth-events", "--count", &count, "--first-id", "1"])?;
        Ok(place)
    }

    fn start(&self, arguments: &[&str]) -> Result<ServiceProcess> {
        let command = ServiceCommand::new("user-service")
            .env("RABBITMQ_URL", &self.rabbitmq_url)
            .env("DATABASE_URL", &self.database_url)
            .env("LISTEN", "127.0.0.1:0")
            .env("ADMIN_LISTEN", "127.0.0.1:0");
        arguments
            .iter()
            .fold(command, |command, argument| command.arg(*argument))
            .start()
    }

    fn command(&self, arguments: &[&str]) -> Result<()> {
        let process = self.start(arguments)?;
        let status = process.wait_exit(LONG)?;
        ensure!(status.success(), "{}", process.output());
        Ok(())
    }

    fn consumed_by_the_product(
        &self,
        count: u64,
        before: &Cpu,
    ) -> Result<(f64, BTreeMap<String, Duration>)> {
        let process = self.start(&["serve"])?;
        try_eventually(LONG, "the references to be stored", || {
            let stored: u64 = self
                .sql("SELECT count(*) FROM auth_user_references")?
                .parse()?;
            ensure!(stored == count, "{stored} of {count}");
            Ok(())
        })?;
        // Before it ends: the kernel forgets what a process has used.
        let used = Cpu::now()?.since(before);
        process.kill9()?;
        let seconds: f64 = self
            .sql("SELECT extract(epoch FROM max(created_at) - min(created_at)) FROM auth_user_references")?
            .parse()?;
        Ok((stats::number(count) / seconds.max(1e-6), used))
    }

    fn sql(&self, sql: &str) -> Result<String> {
        psql(&self.database_url, sql)
    }
}
