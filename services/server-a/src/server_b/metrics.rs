//! Metrics of the questions to server B.

use std::sync::LazyLock;

use prometheus::{IntCounterVec, register_int_counter_vec};

static ASKED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "identity_sms_status_requests_total",
        "Questions to server B about SMS, by what came of them",
        &["outcome"]
    )
    .expect("registered once")
});

/// What can come of a question.
const OUTCOMES: [&str; 10] = [
    "answered",
    "not_found",
    "invalid",
    "not_configured",
    "too_many",
    "overloaded",
    "timeout",
    "unreachable",
    "failed",
    "unexpected",
];

/// Makes the series known from the start.
pub fn register() {
    for outcome in OUTCOMES {
        ASKED.with_label_values(&[outcome]);
    }
}

pub(super) fn asked(outcome: &str) {
    ASKED.with_label_values(&[outcome]).inc();
}
