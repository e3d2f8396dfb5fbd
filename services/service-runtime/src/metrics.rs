//! Metrics that every process has: its build, its readiness, the tokio runtime, the database pool. Those of the operating
//! system (`process_*`) come with the registry.

use std::sync::LazyLock;
use std::time::Duration;

use anyhow::Context;
use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{
    Counter, IntGauge, IntGaugeVec, Opts, register_int_gauge, register_int_gauge_vec,
};
use sqlx::PgPool;
use tokio::runtime::{Handle, RuntimeMetrics};

static BUILD_INFO: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    register_int_gauge_vec!(
        "identity_build_info",
        "1, with the service and its version",
        &["service", "version"]
    )
    .expect("registered once")
});

/// `identity_ready`: what `/readyz` says, brought up to date at scrape.
pub(crate) static READY: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!("identity_ready", "1 while /readyz answers with 200")
        .expect("registered once")
});

/// Registers what every process shows, once, from within its runtime.
pub(crate) fn register(service: &str) -> anyhow::Result<()> {
    // All crates of the workspace have one version.
    BUILD_INFO
        .with_label_values(&[service, env!("CARGO_PKG_VERSION")])
        .set(1);
    LazyLock::force(&READY);
    let runtime = Runtime::new(Handle::current().metrics())?;
    prometheus::register(Box::new(runtime)).context("metrics of the runtime")
}

/// Registers the pool, once.
pub(crate) fn register_pool(pool: PgPool) -> anyhow::Result<()> {
    prometheus::register(Box::new(DatabasePool::new(pool)?)).context("metrics of the database pool")
}

/// The tokio runtime, read at scrape.
struct Runtime {
    metrics: RuntimeMetrics,
    workers: IntGauge,
    alive_tasks: IntGauge,
    global_queue_depth: IntGauge,
    busy: Counter,
    /// Two scrapes at a time would count the same increase of `busy` twice.
    reading: Mutex<()>,
}

impl Runtime {
    fn new(metrics: RuntimeMetrics) -> prometheus::Result<Self> {
        Ok(Self {
            metrics,
            workers: IntGauge::new("tokio_runtime_workers", "Worker threads of the runtime")?,
            alive_tasks: IntGauge::new(
                "tokio_runtime_alive_tasks",
                "Tasks that have been spawned and have not ended",
            )?,
            global_queue_depth: IntGauge::new(
                "tokio_runtime_global_queue_depth",
                "Tasks that wait in the runtime's shared queue",
            )?,
            busy: Counter::new(
                "tokio_runtime_busy_seconds_total",
                "Time that worker threads have been busy, all of them together",
            )?,
            reading: Mutex::new(()),
        })
    }

    fn busy_in_all(&self) -> Duration {
        (0..self.metrics.num_workers())
            .map(|worker| self.metrics.worker_total_busy_duration(worker))
            .sum()
    }
}

impl Collector for Runtime {
    fn desc(&self) -> Vec<&Desc> {
        let gauges = [&self.workers, &self.alive_tasks, &self.global_queue_depth];
        let gauges = gauges.into_iter().flat_map(Collector::desc);
        gauges.chain(self.busy.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let _reading = self.reading.lock();
        self.workers.set(gauge(self.metrics.num_workers()));
        self.alive_tasks.set(gauge(self.metrics.num_alive_tasks()));
        self.global_queue_depth
            .set(gauge(self.metrics.global_queue_depth()));
        let busier = self.busy_in_all().as_secs_f64() - self.busy.get();
        self.busy.inc_by(busier.max(0.0));
        let gauges = [&self.workers, &self.alive_tasks, &self.global_queue_depth];
        let gauges = gauges.into_iter().flat_map(Collector::collect);
        gauges.chain(self.busy.collect()).collect()
    }
}

/// A pool of database connections, read at scrape.
struct DatabasePool {
    pool: PgPool,
    connections: IntGaugeVec,
    max: IntGauge,
}

impl DatabasePool {
    fn new(pool: PgPool) -> prometheus::Result<Self> {
        Ok(Self {
            pool,
            connections: IntGaugeVec::new(
                Opts::new(
                    "identity_database_connections",
                    "Connections of the process's pool, by state",
                ),
                &["state"],
            )?,
            max: IntGauge::new(
                "identity_database_connections_max",
                "Connections that the pool opens at most",
            )?,
        })
    }
}

impl Collector for DatabasePool {
    fn desc(&self) -> Vec<&Desc> {
        let descs = self.connections.desc().into_iter();
        descs.chain(self.max.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let idle = self.pool.num_idle();
        // The two are not read at one moment.
        let in_use = (self.pool.size() as usize).saturating_sub(idle);
        for (state, connections) in [("idle", idle), ("in_use", in_use)] {
            self.connections
                .with_label_values(&[state])
                .set(gauge(connections));
        }
        self.max
            .set(i64::from(self.pool.options().get_max_connections()));
        let families = self.connections.collect().into_iter();
        families.chain(self.max.collect()).collect()
    }
}

fn gauge(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
