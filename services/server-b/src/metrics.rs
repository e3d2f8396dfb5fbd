//! What server B shows of itself beside what its parts count: see their `metrics`.

use std::sync::LazyLock;
use std::time::Duration;

use anyhow::Context;
use parking_lot::RwLock;
use prometheus::{IntCounterVec, IntGaugeVec, register_int_counter_vec, register_int_gauge_vec};
use sqlx::PgPool;

use crate::relay::RelayStatus;
use crate::{audit, full_sync, relay, replicas, retention, sms, snapshot};

/// Each: a scrape must not wait long for a database that is down.
const MEASURE_WITHIN: Duration = Duration::from_secs(1);

static REPLICAS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    register_int_gauge_vec!(
        "identity_replicas",
        "Live replicas of server A, by whether they have proven their cache lately",
        &["proven"]
    )
    .expect("registered once")
});

static NOT_MEASURED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "identity_measurements_failed_total",
        "Scrapes at which gauges that are read from the database kept their former value",
        &["of"]
    )
    .expect("registered once")
});

/// Makes the series known from the start: an increase from nothing is not seen by a rate.
pub fn register() {
    for of in ["outbox", "replicas", "sms"] {
        NOT_MEASURED.with_label_values(&[of]);
    }
    relay::metrics::register();
    audit::register_metrics();
    full_sync::metrics::register();
    snapshot::metrics::register();
    sms::metrics::register();
    retention::register_metrics();
}

/// Brings the gauges up to date. What cannot be read stays as it was, and is counted.
pub async fn on_scrape(pool: &PgPool, relay: &RwLock<RelayStatus>) {
    relay::metrics::LEADER.set(i64::from(relay.read().leader));
    // One after the other: a scrape must not take several connections from requests.
    measure("outbox", relay::metrics::read_outbox(pool)).await;
    measure("replicas", read_replicas(pool)).await;
    measure("sms", sms::metrics::read_backlog(pool)).await;
}

/// Each with its own time: one that takes long must not cost the others theirs.
async fn measure(of: &'static str, read: impl Future<Output = anyhow::Result<()>>) {
    let read = tokio::time::timeout(MEASURE_WITHIN, read).await;
    let read = read.context("the database does not answer in time");
    if let Err(error) = read.and_then(|read| read) {
        NOT_MEASURED.with_label_values(&[of]).inc();
        tracing::warn!(of, error = format!("{error:#}"), "sizes not measured");
    }
}

async fn read_replicas(pool: &PgPool) -> anyhow::Result<()> {
    let live = replicas::live(pool)
        .await
        .context("cannot read the replicas")?;
    let proven = live
        .iter()
        .filter(|replica| replica.proven_sequence.is_some());
    let proven = proven.count();
    for (label, count) in [("true", proven), ("false", live.len() - proven)] {
        REPLICAS
            .with_label_values(&[label])
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    Ok(())
}
