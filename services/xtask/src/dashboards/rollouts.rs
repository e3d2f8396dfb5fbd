use super::model::{Dashboard, Panel, Row};

pub fn dashboard() -> Dashboard {
    Dashboard {
        name: "rollouts",
        title: "Resync and rollouts",
        description: "Full syncs, resync Jobs, and pods that come and go.",
        rows: vec![full_syncs(), rollouts()],
    }
}

fn full_syncs() -> Row {
    Row {
        title: "Resync",
        panels: vec![
            Panel::stacked(
                "Full syncs",
                "none",
                "Ended within the last hour, by outcome.",
            )
            .width(6)
            .query(
                "sum by (outcome) (increase(identity_full_syncs_total{@}[1h]))",
                "{{outcome}}",
            ),
            Panel::lines("Duration of full syncs", "s", "Of those of the last hour.")
                .width(6)
                .query(
                    "histogram_quantile(0.5, sum by (le) \
                 (rate(identity_full_sync_duration_seconds_bucket{@}[1h])))",
                    "p50",
                )
                .query(
                    "histogram_quantile(0.99, sum by (le) \
                 (rate(identity_full_sync_duration_seconds_bucket{@}[1h])))",
                    "p99",
                ),
            Panel::lines(
                "Users published",
                "ops",
                "By full syncs; the slowest live replica sets the pace.",
            )
            .width(6)
            .query(
                "sum(rate(identity_full_sync_users_total{@}[$__rate_interval]))",
                "users",
            ),
            Panel::lines("Resync Jobs", "none", "As kube-state-metrics knows them.")
                .width(6)
                .query(
                    "sum by (job_name) \
                 (kube_job_status_succeeded{namespace=~\"$namespace\", \
                 job_name=~\".*resync.*\"})",
                    "{{job_name}} succeeded",
                )
                .query(
                    "sum by (job_name) (kube_job_status_failed{namespace=~\"$namespace\", \
                 job_name=~\".*resync.*\"})",
                    "{{job_name}} failed",
                )
                .query(
                    "sum by (job_name) (kube_job_status_active{namespace=~\"$namespace\", \
                 job_name=~\".*resync.*\"})",
                    "{{job_name}} active",
                ),
        ],
    }
}

fn rollouts() -> Row {
    Row {
        title: "Rollouts",
        panels: vec![
            Panel::stacked("Replicas by version", "none", "Pods of server A.").query(
                r#"sum by (version) (identity_build_info{@, job="server-a"})"#,
                "{{version}}",
            ),
            Panel::lines(
                "Ready, and proven",
                "none",
                "Replicas of server A; the resync Job waits until all are both.",
            )
            .query(r#"count(identity_ready{@, job="server-a"})"#, "all")
            .query(r#"sum(identity_ready{@, job="server-a"})"#, "ready")
            .query("sum(identity_cache_proven{@})", "proven"),
            Panel::lines(
                "Age of the processes",
                "s",
                "A line that falls to 0 is a restart.",
            )
            .query("time() - process_start_time_seconds{@}", "{{pod}}"),
            Panel::lines(
                "Snapshots of new connections",
                "s",
                "From a new connection's request to a complete cache: mean since the \
                 replica's start.",
            )
            .query(
                "identity_snapshot_duration_seconds_sum{@, cause=\"connected\"} / \
                 identity_snapshot_duration_seconds_count{@, cause=\"connected\"}",
                "{{pod}}",
            ),
            Panel::lines(
                "Connections of the cache sync",
                "ops",
                "Each begins with a snapshot; outside of rollouts there are none.",
            )
            .query(
                "sum by (pod) (rate(identity_amqp_connects_total{@, purpose=\"cache \
                 sync\"}[$__rate_interval]))",
                "{{pod}}",
            ),
            Panel::lines(
                "Sends answered with a 5xx",
                "percentunit",
                "A rollout ought to cause none.",
            )
            .query(
                r#"namespace:identity_sends_failed:ratio_rate5m{namespace=~"$namespace"}"#,
                "{{namespace}}",
            ),
        ],
    }
}
