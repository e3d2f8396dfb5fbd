//! What dashboards and rules ask of Prometheus.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;
use test_support::servers::Prometheus;

/// Where an expression is from, and the expression.
pub type Named = (String, String);

/// Of every panel of every dashboard, with the variables as "All" has them: every value that their query gives.
pub fn of_panels(prometheus: &Prometheus) -> Vec<Named> {
    let [namespaces, pods] = ["namespace", "pod"].map(|label| values(prometheus, label));
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../observability/dashboards");
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("the dashboards are there") {
        let path = entry.expect("can be listed").path();
        if path.extension().is_none_or(|it| it != "json") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("can be read");
        let dashboard: Value = serde_json::from_str(&text).expect("is JSON");
        for panel in items(&dashboard["panels"]) {
            for target in items(&panel["targets"]) {
                let name = format!(
                    "{}, {}",
                    text_of(&dashboard["title"]),
                    text_of(&panel["title"])
                );
                let expression = text_of(&target["expr"])
                    .replace("$namespace", &namespaces)
                    .replace("$pod", &pods)
                    .replace("$__rate_interval", "10s");
                assert!(!expression.contains('$'), "{expression}");
                found.push((name, expression));
            }
        }
    }
    found
}

/// The values of a label, as Grafana puts them into a matcher.
fn values(prometheus: &Prometheus, label: &str) -> String {
    let query = format!("label/{label}/values?match[]=identity_build_info");
    let values = prometheus.get(&query).expect("Prometheus tells them");
    let values: Vec<&str> = items(&values).map(text_of).collect();
    assert!(!values.is_empty(), "no {label}");
    format!("({})", values.join("|"))
}

/// The rules that Prometheus has loaded: `recording` or `alerting` ones. An alert's expression has no value while all is
/// well; each comparison is made one that gives 0 or 1.
pub fn of_rules(prometheus: &Prometheus, kind: &str) -> Vec<Named> {
    let data = prometheus.get("rules").expect("Prometheus tells its rules");
    let groups = items(&data["groups"]);
    let rules = groups.flat_map(|group| items(&group["rules"]));
    let rules = rules.filter(|rule| rule["type"] == kind).map(|rule| {
        assert_eq!(rule["health"], "ok", "{rule}");
        let mut expression = text_of(&rule["query"]).to_owned();
        if kind == "alerting" {
            for operator in [" > ", " < ", " == "] {
                expression = expression.replace(operator, &format!("{operator}bool "));
            }
        }
        (text_of(&rule["name"]).to_owned(), expression)
    });
    rules.collect()
}

/// Whether an expression has a value that is a number: a quantile of nothing is none.
pub fn has_data(prometheus: &Prometheus, expression: &str) -> Result<bool> {
    let result = prometheus.query(expression)?;
    let samples = result
        .as_array()
        .with_context(|| format!("{expression}: {result}"))?;
    Ok(samples.iter().any(|it| it["value"][1] != "NaN"))
}

/// The names of scraped metrics in an expression; those of recording rules are left out.
pub fn metrics(expression: &str) -> BTreeSet<&str> {
    let is_part = |it: char| it.is_ascii_alphanumeric() || ['_', ':'].contains(&it);
    let words = expression.split(|it| !is_part(it));
    let ours = |word: &&str| {
        [
            "identity_",
            "user_service_",
            "http_server_",
            "process_",
            "tokio_",
            "kube_job_",
        ]
        .iter()
        .any(|prefix| word.starts_with(prefix))
    };
    words.filter(ours).collect()
}

/// The names of series in the text of `/metrics`.
pub fn exposed(text: &str) -> BTreeSet<&str> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect()
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
