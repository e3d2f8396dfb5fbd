//! Metrics of the SMS path.

use std::sync::LazyLock;

use anyhow::Context;
use prometheus::{
    Gauge, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, register_gauge,
    register_histogram, register_histogram_vec, register_int_counter, register_int_counter_vec,
    register_int_gauge_vec,
};
use service_runtime::intake::DeadReason;
use sqlx::PgPool;

use super::codes::ErrorCode;
use super::providers::Providers;

const REGISTERED_ONCE: &str = "each metric has one name and is registered once";

/// From a healthy queue's milliseconds to a backlog of hours.
const QUEUE_AGE_BUCKETS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0, 3600.0, 21_600.0,
];

/// A provider nearby answers within milliseconds; the longest timeout of one is 20 s, and no hand-over takes 25 s.
const DISPATCH_BUCKETS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 25.0,
];

/// Deliveries taken from the queue.
pub static RECEIVED: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "identity_sms_received_total",
        "SMS deliveries taken from sms_outbound_queue, redeliveries included"
    )
    .expect(REGISTERED_ONCE)
});

/// Rows written.
pub static STORED: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!("identity_sms_stored_total", "SMS stored in sms_messages")
        .expect(REGISTERED_ONCE)
});

/// Deliveries of an SMS that had its row.
pub static DUPLICATES: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "identity_sms_duplicates_total",
        "SMS deliveries whose message_id was already stored"
    )
    .expect(REGISTERED_ONCE)
});

/// Rows written as rejected at once.
pub static OVER_QUOTA: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "identity_sms_over_quota_total",
        "SMS rejected because their user's daily quota was used up"
    )
    .expect(REGISTERED_ONCE)
});

/// Deliveries of an SMS that had its row, and other content.
pub static CONFLICTS: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "identity_sms_idempotency_conflicts_total",
        "SMS deliveries with a known message_id and another content, which changed nothing"
    )
    .expect(REGISTERED_ONCE)
});

/// Users told of to server A.
pub static USAGE_TOLD: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "identity_sms_usage_told_total",
        "Users whose used quota was broadcast to server A, each time"
    )
    .expect(REGISTERED_ONCE)
});

/// Hand-overs of an SMS that a provider may have taken before: at most so many are duplicates. Label `reason` is one of
/// [`AGAIN_LEASE`] and [`AGAIN_AMBIGUOUS`].
pub static HANDED_OVER_AGAIN: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "identity_sms_handed_over_again_total",
        "Tries of SMS that follow one whose end is not known, by why it is not",
        &["reason"]
    )
    .expect(REGISTERED_ONCE)
});

/// The outcome was not stored within the lease: the same provider is asked, with the same token.
pub const AGAIN_LEASE: &str = "lease";
/// The answer did not come, or did not tell ([`ErrorCode::is_ambiguous`]): the route's next provider is asked.
pub const AGAIN_AMBIGUOUS: &str = "ambiguous";

/// Outcomes that came after another worker had claimed the SMS.
pub static LATE_OUTCOMES: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "identity_sms_late_outcomes_total",
        "Outcomes of hand-overs that were not stored because their lease had run out"
    )
    .expect(REGISTERED_ONCE)
});

/// Tries that will be followed by another; label `class` is one of [`RETRY_CLASSES`].
pub static RETRIES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "identity_sms_retries_total",
        "Hand-overs that failed and will be tried again, by the class of the error",
        &["class"]
    )
    .expect(REGISTERED_ONCE)
});

/// `refused`: another provider is asked.
pub const RETRY_CLASSES: [ErrorCode; 6] = [
    ErrorCode::ProviderTimeout,
    ErrorCode::ProviderUnreachable,
    ErrorCode::ProviderBusy,
    ErrorCode::ProviderUnavailable,
    ErrorCode::ProviderUnauthorized,
    ErrorCode::ProviderRefused,
];

static RECEIPTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "identity_sms_receipts_total",
        "Delivery receipts by what was done with them",
        &["provider", "outcome"]
    )
    .expect(REGISTERED_ONCE)
});

/// What becomes of a receipt.
const RECEIPT_OUTCOMES: [&str; 7] = [
    "applied",
    "repeated",
    "kept",
    "ignored",
    "unauthorized",
    "unreadable",
    "unknown",
];

/// Counts a delivery receipt of a provider that sends them; `none` for one that nobody is configured to send.
pub fn receipt(provider: &str, outcome: &str) {
    RECEIPTS.with_label_values(&[provider, outcome]).inc();
}

/// Dead letters; label `reason` is a `DeadReason::label`.
pub static DEAD_LETTERED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "identity_sms_dead_lettered_total",
        "SMS deliveries moved to sms_outbound_queue.dead",
        &["reason"]
    )
    .expect(REGISTERED_ONCE)
});

/// Outcomes stored; labels are a `Provider::name` (`none` before one was asked) and an outcome.
pub static DISPATCHED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "identity_sms_dispatched_total",
        "Outcomes of handing SMS to a provider",
        &["provider", "outcome"]
    )
    .expect(REGISTERED_ONCE)
});

/// What server A let in although the user had been deactivated before: how far its cache was behind.
pub static ADMITTED_LATE: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "identity_sms_admitted_after_revocation_total",
        "SMS admitted by a replica after their user had been deactivated, and rejected here"
    )
    .expect(REGISTERED_ONCE)
});

/// Time in the queue.
pub static QUEUE_AGE: LazyLock<Histogram> = LazyLock::new(|| {
    register_histogram!(
        "identity_sms_queue_age_seconds",
        "From the submission of an SMS at server A to its reception",
        QUEUE_AGE_BUCKETS.to_vec()
    )
    .expect(REGISTERED_ONCE)
});

/// Hand-overs; label `provider` is a `Provider::name`.
pub static DISPATCH_DURATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    register_histogram_vec!(
        "identity_sms_dispatch_duration_seconds",
        "Time that one hand-over to a provider took, whatever came of it",
        &["provider"],
        DISPATCH_BUCKETS.to_vec()
    )
    .expect(REGISTERED_ONCE)
});

static BACKLOG: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    register_int_gauge_vec!(
        "identity_sms_backlog",
        "SMS in the table that are not at an end, by status; 10000 of both together at most",
        &["status"]
    )
    .expect(REGISTERED_ONCE)
});

static BACKLOG_OLDEST: LazyLock<Gauge> = LazyLock::new(|| {
    register_gauge!(
        "identity_sms_backlog_oldest_seconds",
        "How long ago the oldest SMS of the backlog was submitted"
    )
    .expect(REGISTERED_ONCE)
});

/// Makes the series known from the start: an increase from nothing is not seen by a rate.
pub fn register() {
    for counter in [
        &RECEIVED,
        &STORED,
        &DUPLICATES,
        &ADMITTED_LATE,
        &OVER_QUOTA,
        &CONFLICTS,
        &USAGE_TOLD,
        &LATE_OUTCOMES,
    ] {
        LazyLock::force(counter);
    }
    LazyLock::force(&QUEUE_AGE);
    // The fields of an SMS are checked by server A.
    for reason in DeadReason::LABELS
        .into_iter()
        .filter(|it| *it != "invalid_field")
    {
        DEAD_LETTERED.with_label_values(&[reason]);
    }
    RECEIPTS.with_label_values(&["none", "no_provider"]);
    for reason in [AGAIN_LEASE, AGAIN_AMBIGUOUS] {
        HANDED_OVER_AGAIN.with_label_values(&[reason]);
    }
    for class in RETRY_CLASSES {
        RETRIES.with_label_values(&[class.as_str()]);
    }
    for outcome in ["put_back", "rejected", "expired", "failed"] {
        DISPATCHED.with_label_values(&["none", outcome]);
    }
}

/// The same for the series of each provider, which the configuration names.
pub fn register_providers(providers: &Providers) {
    for provider in providers.routes.provider_names() {
        DISPATCH_DURATION.with_label_values(&[provider]);
        for outcome in ["sent", "retry", "failed"] {
            DISPATCHED.with_label_values(&[provider, outcome]);
        }
    }
    for provider in providers.receipts.keys() {
        for outcome in RECEIPT_OUTCOMES {
            RECEIPTS.with_label_values(&[provider.as_str(), outcome]);
        }
    }
}

/// Reads how much waits, of the longest due, by their index, as many as a look may cost; and since when: those that were never
/// tried are due about in the order in which they came, and those that a provider has failed have an index of their own.
pub async fn read_backlog(pool: &PgPool) -> anyhow::Result<()> {
    let (queued, sending, oldest): (i64, i64, f64) = sqlx::query_as(
        "SELECT count(*) FILTER (WHERE status = 'queued'), count(*) FILTER (WHERE status = 'sending'),
                greatest(coalesce(extract(epoch FROM now() - least(min(submitted_at), (
                    SELECT min(submitted_at) FROM sms_messages
                    WHERE failures > 0 AND status IN ('queued', 'sending')))), 0), 0)::float8
         FROM (SELECT status, submitted_at FROM sms_messages WHERE status IN ('queued', 'sending')
               ORDER BY next_attempt_at LIMIT 10000) AS backlog",
    )
    .fetch_one(pool)
    .await
    .context("cannot read the backlog of SMS")?;
    BACKLOG.with_label_values(&["queued"]).set(queued);
    BACKLOG.with_label_values(&["sending"]).set(sending);
    BACKLOG_OLDEST.set(oldest);
    Ok(())
}
