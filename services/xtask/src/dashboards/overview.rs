use super::model::{Dashboard, Panel, Row, quantile};

pub fn dashboard() -> Dashboard {
    Dashboard {
        name: "overview",
        title: "Overview",
        description: "The two objectives, rate, errors and duration of each service, and \
                 what they all depend on.",
        rows: vec![objectives(), services(), dependencies(), processes()],
    }
}

fn objectives() -> Row {
    Row {
        title: "Objectives",
        panels: vec![
            Panel::stat(
                "Changes within 1 s",
                "percentunit",
                (0.998, 0.999),
                "Share of the changes of the last 3 days that the worst ready replica \
                 had applied within 1 s of their commit. Objective: 99.9 %.",
            )
            .width(5)
            .query(
                r#"1 - max(namespace:identity_changes_late:ratio_rate3d{namespace=~"$namespace"})"#,
                "changes",
            ),
            Panel::stat(
                "Sends without a 5xx",
                "percentunit",
                (0.998, 0.999),
                "Share of the sends of the last 3 days that were not answered with a \
                 5xx. Objective: 99.9 %.",
            )
            .width(5)
            .query(
                r#"1 - max(namespace:identity_sends_failed:ratio_rate3d{namespace=~"$namespace"})"#,
                "sends",
            ),
            Panel::lines(
                "Burn rate of the error budgets",
                "none",
                "How many times faster than allowed the budget is used up, over 1 h. \
                 Above 14.4 the month's is gone in two days.",
            )
            .query(
                r#"namespace:identity_changes_late:ratio_rate1h{namespace=~"$namespace"} / 0.001"#,
                "{{namespace}} changes",
            )
            .query(
                r#"namespace:identity_sends_failed:ratio_rate1h{namespace=~"$namespace"} / 0.001"#,
                "{{namespace}} sends",
            ),
            Panel::stacked(
                "Alerts",
                "none",
                "Alerts of identity-sync that are firing, by name; 0 while there is none.",
            )
            .width(6)
            .query(
                "count by (alertname) (ALERTS{alertname=~\"Identity.+\", \
                 alertstate=\"firing\", namespace=~\"$namespace\"}) or vector(0)",
                "{{alertname}}",
            ),
        ],
    }
}

fn services() -> Row {
    Row {
        title: "Services",
        panels: vec![
            Panel::stacked(
                "Requests",
                "reqps",
                "HTTP requests of each service's own API, by answer.",
            )
            .query(
                "sum by (job, status) \
                 (rate(http_server_request_duration_seconds_count{@}[$__rate_interval]))",
                "{{job}} {{status}}",
            ),
            Panel::lines(
                "Errors",
                "percentunit",
                "Share of the requests that were answered with a 5xx.",
            )
            .query(
                "(sum by (job) (rate(http_server_request_duration_seconds_count{@, \
                 status=~\"5..\"}[$__rate_interval])) or 0 * sum by (job) \
                 (rate(http_server_request_duration_seconds_count{@}[$__rate_interval]))) \
                 / (sum by (job) \
                 (rate(http_server_request_duration_seconds_count{@}[$__rate_interval])) \
                 > 0)",
                "{{job}}",
            ),
            Panel::lines(
                "Duration",
                "s",
                "Of requests: from their headers to their answer.",
            )
            .query(
                quantile(0.5, "http_server_request_duration_seconds", "job, le"),
                "{{job}} p50",
            )
            .query(
                quantile(0.99, "http_server_request_duration_seconds", "job, le"),
                "{{job}} p99",
            ),
            Panel::lines("Ready pods", "none", "Pods whose /readyz says so.")
                .query("sum by (job) (identity_ready{@})", "{{job}}"),
            Panel::lines(
                "Pods by version",
                "none",
                "More than one version of a service: a rollout.",
            )
            .query(
                "sum by (job, version) (identity_build_info{@})",
                "{{job}} {{version}}",
            ),
            Panel::lines(
                "user-service",
                "ops",
                "UserCreated events, and what became of them.",
            )
            .query(
                "sum(rate(user_service_events_received_total{@}[$__rate_interval]))",
                "received",
            )
            .query(
                "sum(rate(user_service_events_redelivered_total{@}[$__rate_interval]))",
                "redelivered",
            )
            .query(
                "sum(rate(user_service_references_created_total{@}[$__rate_interval]))",
                "references created",
            )
            .query(
                "sum(rate(user_service_duplicates_total{@}[$__rate_interval]))",
                "duplicates",
            )
            .query(
                "sum(rate(user_service_conflicts_total{@}[$__rate_interval]))",
                "conflicts",
            )
            .query(
                "sum by (reason) \
                 (rate(user_service_dead_lettered_total{@}[$__rate_interval]))",
                "dead: {{reason}}",
            ),
        ],
    }
}

fn dependencies() -> Row {
    Row {
        title: "RabbitMQ, PostgreSQL, traces",
        panels: vec![
            Panel::lines(
                "Connections to RabbitMQ",
                "none",
                "Share of the pods that are connected, by purpose; 1 is all.",
            )
            .query(
                "avg by (job, purpose) (identity_amqp_connected{@})",
                "{{job}} {{purpose}}",
            ),
            Panel::lines(
                "Connections made and failed",
                "ops",
                "To RabbitMQ: a healthy process connects once for each purpose.",
            )
            .query(
                "sum by (job) (rate(identity_amqp_connects_total{@}[$__rate_interval]))",
                "{{job}}",
            )
            .query(
                "sum by (job) \
                 (rate(identity_amqp_connection_failures_total{@}[$__rate_interval]))",
                "{{job}}, failed",
            ),
            Panel::stacked(
                "Publishes",
                "ops",
                "Messages handed to RabbitMQ, by purpose and outcome; returned: no \
                 queue took it.",
            )
            .query(
                "sum by (purpose, outcome) \
                 (rate(identity_amqp_published_total{@}[$__rate_interval])) > 0",
                "{{purpose}} {{outcome}}",
            ),
            Panel::lines(
                "Time to a confirm",
                "s",
                "From handing a message to the channel until RabbitMQ confirms it, 99th \
                 percentile.",
            )
            .query(
                quantile(
                    0.99,
                    "identity_amqp_confirm_duration_seconds",
                    "purpose, le",
                ),
                "{{purpose}}",
            ),
            Panel::lines(
                "Database connections",
                "none",
                "Of the pools, in use and idle; and how many there may be.",
            )
            .query(
                "sum by (job, state) (identity_database_connections{@})",
                "{{job}} {{state}}",
            )
            .query(
                "sum by (job) (identity_database_connections_max{@})",
                "{{job}} at most",
            ),
            Panel::lines(
                "Trace spans",
                "ops",
                "Ended ones that are to be exported, exported, failed; nothing while no \
                 endpoint is set.",
            )
            .query(
                "sum by (job, outcome) \
                 (rate(identity_trace_spans_total{@}[$__rate_interval]))",
                "{{job}} {{outcome}}",
            ),
        ],
    }
}

fn processes() -> Row {
    Row {
        title: "Processes",
        panels: vec![
            Panel::lines("CPU", "none", "Cores used.").query(
                "rate(process_cpu_seconds_total{@}[$__rate_interval])",
                "{{pod}}",
            ),
            Panel::lines("Memory", "bytes", "Resident memory.")
                .query("process_resident_memory_bytes{@}", "{{pod}}"),
            Panel::lines("File descriptors", "none", "Open ones, sockets included.")
                .query("process_open_fds{@}", "{{pod}}"),
            Panel::lines(
                "Busy workers",
                "percentunit",
                "Share of the time that tokio's workers are not parked; near 1 they are \
                 the limit.",
            )
            .query(
                "rate(tokio_runtime_busy_seconds_total{@}[$__rate_interval]) / \
                 tokio_runtime_workers{@}",
                "{{pod}}",
            ),
            Panel::lines("Tasks", "none", "Tasks of tokio that are alive.")
                .query("tokio_runtime_alive_tasks{@}", "{{pod}}"),
            Panel::lines(
                "Waiting tasks",
                "none",
                "In tokio's global queue; more than a few: too little CPU, or a task \
                 that blocks.",
            )
            .query("tokio_runtime_global_queue_depth{@}", "{{pod}}"),
        ],
    }
}
