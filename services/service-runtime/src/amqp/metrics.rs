//! Metrics of connections and publishers. The label `purpose` is what a connection is for, as in its name at the broker.

use std::sync::LazyLock;
use std::time::Duration;

use prometheus::{
    Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    register_histogram_vec, register_int_counter_vec, register_int_gauge_vec,
};

use super::publisher::PublishError;

/// Seconds; a broker nearby confirms within milliseconds, and after the last bucket the publisher gives up.
const CONFIRM_BUCKETS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

static CONNECTED: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    register_int_gauge_vec!(
        "identity_amqp_connected",
        "1 while the connection to RabbitMQ stands",
        &["purpose"]
    )
    .expect("registered once")
});
static CONNECTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "identity_amqp_connects_total",
        "Connections to RabbitMQ that were made, the first included",
        &["purpose"]
    )
    .expect("registered once")
});
static FAILURES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "identity_amqp_connection_failures_total",
        "Tries to connect to RabbitMQ, and sessions on a connection, that ended in an error",
        &["purpose"]
    )
    .expect("registered once")
});
static PUBLISHED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "identity_amqp_published_total",
        "Messages handed to the publisher, by what became of them",
        &["purpose", "outcome"]
    )
    .expect("registered once")
});
static CONFIRM_DURATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    register_histogram_vec!(
        "identity_amqp_confirm_duration_seconds",
        "From handing a message to the channel until the broker's confirm",
        &["purpose"],
        CONFIRM_BUCKETS.to_vec()
    )
    .expect("registered once")
});

/// Of one connection.
pub(super) struct ConnectionMetrics {
    connected: IntGauge,
    connects: IntCounter,
    failures: IntCounter,
}

impl ConnectionMetrics {
    /// Each series begins at 0.
    pub(super) fn new(purpose: &str) -> Self {
        Self {
            connected: CONNECTED.with_label_values(&[purpose]),
            connects: CONNECTS.with_label_values(&[purpose]),
            failures: FAILURES.with_label_values(&[purpose]),
        }
    }

    pub(super) fn up(&self) {
        self.connected.set(1);
        self.connects.inc();
    }

    pub(super) fn down(&self) {
        self.connected.set(0);
        self.failures.inc();
    }
}

/// Of one publisher: looked up once, not for each message.
#[derive(Debug)]
pub(super) struct PublisherMetrics {
    confirmed: IntCounter,
    returned: IntCounter,
    refused: IntCounter,
    unconfirmed: IntCounter,
    not_connected: IntCounter,
    confirm_duration: Histogram,
}

impl PublisherMetrics {
    /// Each series begins at 0.
    pub(super) fn new(purpose: &str) -> Self {
        let outcome = |outcome| PUBLISHED.with_label_values(&[purpose, outcome]);
        Self {
            confirmed: outcome("confirmed"),
            returned: outcome("returned"),
            refused: outcome("refused"),
            unconfirmed: outcome("unconfirmed"),
            not_connected: outcome("not_connected"),
            confirm_duration: CONFIRM_DURATION.with_label_values(&[purpose]),
        }
    }

    pub(super) fn answered(&self, answer: Result<(), PublishError>) {
        match answer {
            Ok(()) => self.confirmed.inc(),
            Err(PublishError::Unroutable) => self.returned.inc(),
            Err(PublishError::Refused) => self.refused.inc(),
            Err(PublishError::Unconfirmed) => self.unconfirmed.inc(),
            Err(PublishError::NotConnected) => self.not_connected.inc(),
        }
    }

    /// In the order of the fields.
    #[cfg(test)]
    pub(super) fn counts(&self) -> [u64; 5] {
        let outcomes = [
            &self.confirmed,
            &self.returned,
            &self.refused,
            &self.unconfirmed,
            &self.not_connected,
        ];
        outcomes.map(prometheus::core::GenericCounter::get)
    }

    pub(super) fn confirmed_after(&self, duration: Duration) {
        self.confirm_duration.observe(duration.as_secs_f64());
    }
}
