use super::model::{Dashboard, Panel, Row, quantile};

const PROVEN: &[(&str, &str)] = &[("not proven", "orange"), ("proven", "green")];
/// Numbers of the query below.
const STATES: &[(&str, &str)] = &[
    ("disconnected", "red"),
    ("awaiting snapshot", "orange"),
    ("receiving snapshot", "yellow"),
    ("synced", "green"),
];

/// The numbers of the replicas that are in the newest epoch of their namespace: those of others do not compare.
const NUMBERS: &str = "(identity_cache_sequence{@} and on (namespace, pod) (identity_cache_epoch{@} == \
                       on (namespace) group_left max by (namespace) (identity_cache_epoch{@})))";

pub fn dashboard() -> Dashboard {
    Dashboard {
        name: "identity-sync",
        title: "Identity sync",
        description: "From a committed change to every replica of server A, and whether \
                 their caches equal the database.",
        rows: vec![lag(), caches(), stream(), snapshots()],
    }
}

fn lag() -> Row {
    Row {
        title: "Lag",
        panels: vec![
            Panel::heatmap(
                "From commit to applied",
                "s",
                "Changes by the time from their commit until a ready replica had \
                 applied them.",
            )
            .width(12)
            .query(
                "sum by (le) \
                 (increase(identity_event_lag_seconds_bucket{@}[$__rate_interval]))",
                "{{le}}",
            ),
            Panel::lines(
                "Quantiles",
                "s",
                "From the commit, and from the relay's publish, until applied; of all \
                 replicas.",
            )
            .width(6)
            .query(
                quantile(0.5, "identity_event_lag_seconds", "le"),
                "commit p50",
            )
            .query(
                quantile(0.99, "identity_event_lag_seconds", "le"),
                "commit p99",
            )
            .query(
                quantile(0.99, "identity_event_publish_lag_seconds", "le"),
                "publish p99",
            ),
            Panel::lines(
                "Revocations",
                "s",
                "From the commit of a change that takes a right away until it has its effect.",
            )
            .width(6)
            .query(
                quantile(0.5, "identity_revocation_effect_seconds", "le"),
                "p50",
            )
            .query(
                quantile(0.99, "identity_revocation_effect_seconds", "le"),
                "p99",
            ),
        ],
    }
}

fn caches() -> Row {
    Row {
        title: "Caches",
        panels: vec![
            Panel::states("State", STATES, "Of each replica's subscription.").query(
                "max by (pod) (identity_cache_state{@, state=\"awaiting_snapshot\"} or \
                 2 * identity_cache_state{@, state=\"receiving_snapshot\"} or 3 * \
                 identity_cache_state{@, state=\"synced\"} or 0 * \
                 identity_cache_state{@, state=\"disconnected\"})",
                "{{pod}}",
            ),
            Panel::states(
                "Proof",
                PROVEN,
                "Whether the cache's digest has equalled the database's within the last \
                 three bookmarks.",
            )
            .query("identity_cache_proven{@}", "{{pod}}"),
            Panel::lines(
                "Replicas known to server B",
                "none",
                "Live ones, from their reports.",
            )
            .query(
                "max by (namespace, proven) (identity_replicas{@})",
                "{{namespace}} proven: {{proven}}",
            ),
            Panel::lines(
                "Users",
                "none",
                "In the cache of each replica: the lines ought to lie upon one another.",
            )
            .query("identity_cache_users{@}", "{{pod}}"),
            Panel::lines(
                "Numbers behind",
                "none",
                "By how much of the stream a replica is behind the first of its \
                 namespace and epoch (a few numbers are the time between two scrapes), \
                 and its proof behind itself.",
            )
            .query(
                format!("max by (namespace) {NUMBERS} - on (namespace) group_right () {NUMBERS}"),
                "{{pod}} behind the first",
            )
            .query(
                "clamp_min(identity_cache_sequence{@} - identity_cache_proven_sequence{@}, 0)",
                "{{pod}} not proven",
            ),
            Panel::lines(
                "Staleness",
                "s",
                "Since a replica last heard from the stream; bookmarks come each second.",
            )
            .query("identity_cache_staleness_seconds{@}", "{{pod}}"),
            Panel::lines(
                "Serving",
                "none",
                "Replicas whose cache may be used, and ready ones.",
            )
            .query(
                "sum by (namespace) (identity_cache_serving{@})",
                "{{namespace}} serving",
            )
            .query(
                r#"sum by (namespace) (identity_ready{@, job="server-a"})"#,
                "{{namespace}} ready",
            ),
            Panel::lines(
                "Memory of the cache",
                "bytes",
                "Estimated from its capacities.",
            )
            .query("identity_cache_memory_bytes{@}", "{{pod}}"),
            Panel::lines(
                "Epoch",
                "none",
                "All replicas in one; a new one begins when the database was restarted \
                 or restored.",
            )
            .query(
                r#"count_values by (namespace) ("epoch", identity_cache_epoch{@})"#,
                "{{namespace}} {{epoch}}",
            ),
        ],
    }
}

fn stream() -> Row {
    Row {
        title: "Stream",
        panels: vec![
            Panel::lines(
                "Outbox",
                "none",
                "Changes that are committed and not yet published.",
            )
            .query(
                "max by (namespace) (identity_outbox_rows{@})",
                "{{namespace}}",
            ),
            Panel::lines(
                "Oldest change in the outbox",
                "s",
                "Above 30 s an alert fires.",
            )
            .query(
                "max by (namespace) (identity_outbox_oldest_seconds{@})",
                "{{namespace}}",
            ),
            Panel::lines(
                "Relay",
                "ops",
                "Events published, by outcome, and published again since nothing was \
                 known of their confirm.",
            )
            .query(
                "sum by (outcome) (rate(identity_relay_events_total{@}[$__rate_interval]))",
                "{{outcome}}",
            )
            .query(
                "sum(rate(identity_relay_republished_total{@}[$__rate_interval]))",
                "again",
            ),
            Panel::lines("Relay leaders", "none", "Ought to be 1 in each namespace.").query(
                "sum by (namespace) (identity_relay_leader{@})",
                "{{namespace}}",
            ),
            Panel::stacked("Events taken in", "ops", "By replicas, by what they did.").query(
                "sum by (event, effect) (rate(identity_events_total{@}[$__rate_interval])) > 0",
                "{{event}} {{effect}}",
            ),
            Panel::lines(
                "Lost or ignored",
                "ops",
                "Messages that a replica could not take in, and its own to server B \
                 that were not confirmed.",
            )
            .query(
                "sum by (reason) (rate(identity_events_ignored_total{@}[$__rate_interval]))",
                "ignored: {{reason}}",
            )
            .query(
                "sum by (kind) \
                 (rate(identity_control_messages_lost_total{@}[$__rate_interval]))",
                "lost: {{kind}}",
            ),
            Panel::lines(
                "Audits",
                "none",
                "Comparisons of the digest with the tables, within the last hour; \
                 drift: a change behind the triggers.",
            )
            .width(12)
            .query(
                "sum by (outcome) (increase(identity_audits_total{@}[1h]))",
                "{{outcome}}",
            ),
            Panel::lines(
                "Digest mismatches",
                "none",
                "Within the last hour: a replica differed, and took a snapshot.",
            )
            .width(12)
            .query(
                "increase(identity_digest_mismatches_total{@}[1h])",
                "{{pod}}",
            ),
        ],
    }
}

fn snapshots() -> Row {
    Row {
        title: "Snapshots",
        panels: vec![
            Panel::stacked(
                "Asked for",
                "none",
                "By the replicas that run now, since their start, by cause and outcome.",
            )
            .query(
                "sum by (cause, outcome) (identity_snapshots_total{@}) > 0",
                "{{cause}} {{outcome}}",
            ),
            Panel::lines(
                "Duration",
                "s",
                "From a replica's request to the end of the snapshot: mean since the \
                 replica's start.",
            )
            .query(
                "sum by (pod, cause) (identity_snapshot_duration_seconds_sum{@}) / sum \
                 by (pod, cause) (identity_snapshot_duration_seconds_count{@})",
                "{{pod}} {{cause}}",
            ),
            Panel::lines(
                "Given up",
                "none",
                "By replicas within the last hour, because the sender fell silent.",
            )
            .query(
                "sum by (kind) (increase(identity_sources_given_up_total{@}[1h]))",
                "{{kind}}",
            ),
            Panel::stacked(
                "Sent",
                "none",
                "By server B within the last hour; several may share one read.",
            )
            .width(12)
            .query(
                "sum by (outcome) (increase(identity_snapshots_sent_total{@}[1h]))",
                "{{outcome}}",
            )
            .query(
                "sum(increase(identity_snapshot_reads_total{@}[1h]))",
                "reads of the tables",
            ),
            Panel::lines(
                "Reads",
                "s",
                "Duration of one read of all users: mean since server B's start.",
            )
            .width(12)
            .query(
                "sum by (pod) (identity_snapshot_read_duration_seconds_sum{@}) / sum by \
                 (pod) (identity_snapshot_read_duration_seconds_count{@})",
                "{{pod}}",
            ),
        ],
    }
}
