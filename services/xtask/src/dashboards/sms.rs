use super::model::{Dashboard, Panel, Row, quantile};

pub fn dashboard() -> Dashboard {
    Dashboard {
        name: "sms",
        title: "SMS",
        description: "From a send at server A to the SMS provider.",
        rows: vec![server_a(), queue(), provider()],
    }
}

fn server_a() -> Row {
    Row {
        title: "Sends (server A)",
        panels: vec![
            Panel::stacked("Sends", "ops", "Accepted: RabbitMQ has confirmed the SMS.").query(
                "sum by (pod) (rate(identity_sms_accepted_total{@}[$__rate_interval]))",
                "{{pod}}",
            ),
            Panel::stacked(
                "Sends refused, by reason",
                "ops",
                "The reason is the `code` of the answer.",
            )
            .query(
                "sum by (reason) (rate(identity_sms_rejected_total{@}[$__rate_interval])) > 0",
                "{{reason}}",
            ),
            Panel::lines(
                "Duration of a send",
                "s",
                "Of accepted ones: authentication, and the broker's confirm.",
            )
            .query(
                "histogram_quantile(0.5, sum by (le) \
                 (rate(http_server_request_duration_seconds_bucket{@, \
                 route=\"/api/v1/sms/send\", status=\"202\"}[$__rate_interval])))",
                "p50",
            )
            .query(
                "histogram_quantile(0.99, sum by (le) \
                 (rate(http_server_request_duration_seconds_bucket{@, \
                 route=\"/api/v1/sms/send\", status=\"202\"}[$__rate_interval])))",
                "p99",
            ),
        ],
    }
}

fn queue() -> Row {
    Row {
        title: "Queue (server B)",
        panels: vec![
            Panel::heatmap(
                "Age in the queue",
                "s",
                "From a send until server B takes the SMS.",
            )
            .width(12)
            .query(
                "sum by (le) \
                 (increase(identity_sms_queue_age_seconds_bucket{@}[$__rate_interval]))",
                "{{le}}",
            ),
            Panel::lines(
                "Taken from the queue",
                "ops",
                "Redeliveries included; duplicates were stored before.",
            )
            .width(12)
            .query(
                "sum(rate(identity_sms_received_total{@}[$__rate_interval]))",
                "received",
            )
            .query(
                "sum(rate(identity_sms_stored_total{@}[$__rate_interval]))",
                "stored",
            )
            .query(
                "sum(rate(identity_sms_duplicates_total{@}[$__rate_interval]))",
                "duplicates",
            ),
            Panel::lines(
                "Dead letters",
                "none",
                "Within the last hour, by reason: these SMS can never be stored.",
            )
            .width(12)
            .query(
                "sum by (reason) (increase(identity_sms_dead_lettered_total{@}[1h]))",
                "{{reason}}",
            ),
            Panel::lines(
                "Let in after a revocation",
                "none",
                "Within the last hour: a replica did not know yet, server B refused them.",
            )
            .width(12)
            .query(
                "sum(increase(identity_sms_admitted_after_revocation_total{@}[1h]))",
                "SMS",
            ),
            Panel::lines(
                "Over quota, expired, conflicts",
                "none",
                "Within the last hour: rejected for the daily quota, not taken in time, other content under a known id.",
            )
            .width(24)
            .query(
                "sum(increase(identity_sms_over_quota_total{@}[1h]))",
                "over quota",
            )
            .query(
                "sum(increase(identity_sms_dispatched_total{@, outcome=\"expired\"}[1h]))",
                "expired",
            )
            .query(
                "sum(increase(identity_sms_idempotency_conflicts_total{@}[1h]))",
                "conflicts",
            ),
        ],
    }
}

fn provider() -> Row {
    Row {
        title: "Provider",
        panels: vec![
            Panel::stacked(
                "Outcomes",
                "ops",
                "Of hand-overs, by provider; `retry`: it will be tried again.",
            )
            .width(12)
            .query(
                "sum by (provider, outcome) \
                 (rate(identity_sms_dispatched_total{@}[$__rate_interval])) > 0",
                "{{provider}} {{outcome}}",
            ),
            Panel::lines("Duration of a hand-over", "s", "By provider.")
                .width(12)
                .query(
                    quantile(
                        0.5,
                        "identity_sms_dispatch_duration_seconds",
                        "provider, le",
                    ),
                    "{{provider}} p50",
                )
                .query(
                    quantile(
                        0.99,
                        "identity_sms_dispatch_duration_seconds",
                        "provider, le",
                    ),
                    "{{provider}} p99",
                ),
            Panel::lines(
                "Backlog",
                "none",
                "SMS that are stored and not handed over.",
            )
            .width(12)
            .query("sum by (status) (max by (namespace, status) (identity_sms_backlog{@}))", "{{status}}"),
            Panel::lines(
                "Oldest SMS in the backlog",
                "s",
                "Since its submission, tries that failed included; above 10 minutes an alert fires.",
            )
            .width(12)
            .query("max(identity_sms_backlog_oldest_seconds{@})", "age"),
            Panel::stacked(
                "Delivery receipts",
                "ops",
                "By provider and what was done; `kept`: no SMS had the id yet.",
            )
            .width(12)
            .query(
                "sum by (provider, outcome) \
                 (rate(identity_sms_receipts_total{@}[$__rate_interval])) > 0",
                "{{provider}} {{outcome}}",
            ),
            Panel::lines(
                "Retries and repeated hand-overs",
                "none",
                "Within the last hour: failed tries by class; `again`: the outcome was lost, perhaps a duplicate.",
            )
            .width(12)
            .query(
                "sum by (class) (increase(identity_sms_retries_total{@}[1h]))",
                "{{class}}",
            )
            .query(
                "sum(increase(identity_sms_handed_over_again_total{@}[1h]))",
                "again",
            ),
        ],
    }
}
