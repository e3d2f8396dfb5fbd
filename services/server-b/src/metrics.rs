//! What server B shows of itself beside what its parts count: see their `metrics`.

use std::sync::LazyLock;
use std::time::Duration;

use anyhow::Context;
use parking_lot::RwLock;
use prometheus::{IntGaugeVec, register_int_gauge_vec};
use sqlx::PgPool;

use crate::relay::RelayStatus;
use crate::{audit, full_sync, relay, replicas, retention, sms, snapshot};

/// A scrape must not wait for a database that is down.
const MEASURE_WITHIN: Duration = Duration::from_secs(1);

static REPLICAS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    register_int_gauge_vec!(
        "identity_replicas",
        "Live replicas of server A, by whether they have proven their cache lately",
        &["proven"]
    )
    .expect("registered once")
});

/// Makes the series known from the start: an increase from nothing is not seen by a rate.
pub fn register() {
    relay::metrics::register();
    audit::register_metrics();
    full_sync::metrics::register();
    snapshot::metrics::register();
    sms::metrics::register();
    retention::register_metrics();
}

/// Brings the gauges up to date. What cannot be read stays as it was.
pub async fn on_scrape(pool: &PgPool, relay: &RwLock<RelayStatus>) {
    relay::metrics::LEADER.set(i64::from(relay.read().leader));
    // One after the other: a scrape must not take several connections from requests.
    let read = async {
        relay::metrics::read_outbox(pool).await?;
        read_replicas(pool).await?;
        sms::metrics::read_backlog(pool).await
    };
    let read = tokio::time::timeout(MEASURE_WITHIN, read);
    let read = read.await.context("the database does not answer");
    if let Err(error) = read.and_then(|read| read) {
        tracing::warn!(error = format!("{error:#}"), "sizes not measured");
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
