//! Checks of `observability/`: rules by promtool, dashboards by Grafana's own schema.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use test_support::servers::packages;

use super::{Checks, succeeds};
use crate::observe;

/// The syntax of the rules, and their unit tests.
pub fn rules(checks: &Checks<'_>) -> Result<()> {
    packages::ensure_programs(&observe::PACKAGES)?;
    let dir = checks.root.join("observability/rules");
    let promtool =
        |words: [&str; 2], files| succeeds(Command::new("promtool").args(words).args(files));
    promtool(["check", "rules"], files(&dir, "yaml")?)?;
    promtool(["test", "rules"], files(&dir.join("tests"), "yaml")?)
}

/// The types of Grafana's dashboards, panels and queries; what they do not have is an error.
pub fn dashboards(checks: &Checks<'_>) -> Result<()> {
    let dir = checks.root.join("observability/dashboards");
    let mut command = Command::new("go");
    command
        .args(["run", "-trimpath", "."])
        .args(files(&dir, "json")?)
        .env("CGO_ENABLED", "0")
        .current_dir(dir.join("check"));
    succeeds(&mut command)
}

fn files(dir: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
    let paths = entries.map(|entry| Ok(entry?.path()));
    let mut files = paths.collect::<Result<Vec<_>>>()?;
    files.retain(|path| path.extension().is_some_and(|it| it == extension));
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::workspace;

    fn items(value: &Value, key: &str) -> Vec<Value> {
        value[key].as_array().cloned().unwrap_or_default()
    }

    fn alerts() -> Vec<Value> {
        let dir = workspace::root()
            .expect("is there")
            .join("observability/rules");
        let read = |path| {
            let text = fs::read_to_string(path).expect("can be read");
            serde_saphyr::from_str::<Value>(&text).expect("is YAML")
        };
        let files: Vec<Value> = files(&dir, "yaml")
            .expect("is there")
            .into_iter()
            .map(read)
            .collect();
        let groups = files.iter().flat_map(|file| items(file, "groups"));
        let rules = groups.flat_map(|group| items(&group, "rules"));
        rules.filter(|rule| rule["alert"].is_string()).collect()
    }

    #[test]
    fn every_alert_says_how_bad_it_is_what_it_is_and_where_the_runbook_has_it() {
        let root = workspace::root().expect("is there").join("observability");
        let runbook = fs::read_to_string(root.join("RUNBOOK.md")).expect("can be read");
        let sections: Vec<&str> = (runbook.lines())
            .filter_map(|it| it.strip_prefix("## "))
            .collect();
        let alerts = alerts();
        for alert in &alerts {
            let name = alert["alert"].as_str().expect("is a text");
            let severity = alert["labels"]["severity"].as_str().unwrap_or_default();
            assert!(
                ["critical", "warning", "info"].contains(&severity),
                "{name}"
            );
            let annotations = &alert["annotations"];
            assert!(
                annotations["summary"].is_string() && annotations["description"].is_string(),
                "{name}"
            );
            let anchor = format!(
                "https://identity-sync.example/RUNBOOK.md#{}",
                name.to_lowercase()
            );
            assert_eq!(annotations["runbook_url"], anchor.as_str());
            assert!(
                sections.contains(&name),
                "RUNBOOK.md has no section on {name}"
            );
        }
        let names: BTreeSet<&str> = (alerts.iter())
            .filter_map(|it| it["alert"].as_str())
            .collect();
        assert_eq!(sections.len(), names.len(), "a section is of no alert");
    }

    /// What a rule's test expects of an alert at a moment: its name, and the labels of those that fire.
    fn expectations() -> Vec<(String, Vec<Value>)> {
        let dir = workspace::root()
            .expect("is there")
            .join("observability/rules/tests");
        let mut found = Vec::new();
        for path in files(&dir, "yaml").expect("is there") {
            let text = fs::read_to_string(path).expect("can be read");
            let file: Value = serde_saphyr::from_str(&text).expect("is YAML");
            let tests = items(&file, "tests");
            let of_tests = tests.iter().flat_map(|it| items(it, "alert_rule_test"));
            found.extend(of_tests.map(|it| {
                let name = it["alertname"].as_str().expect("is a text").to_owned();
                let firing = items(&it, "exp_alerts").into_iter();
                (
                    name,
                    firing.map(|alert| alert["exp_labels"].clone()).collect(),
                )
            }));
        }
        found
    }

    /// Rules of one name differ by their labels.
    #[test]
    fn every_rule_of_an_alert_is_tested_to_fire_and_not_to_fire() {
        let expectations = expectations();
        for alert in alerts() {
            let name = alert["alert"].as_str().expect("is a text");
            let labels = alert["labels"].as_object().expect("has labels");
            let is_of_rule = |fired: &Value| labels.iter().all(|(key, it)| fired[key] == *it);
            let outcomes: BTreeSet<bool> = (expectations.iter())
                .filter(|(tested, _)| tested == name)
                .map(|(_, fired)| fired.iter().any(is_of_rule))
                .collect();
            assert!(
                outcomes.contains(&true),
                "{name} {labels:?} fires in no test"
            );
            assert!(
                outcomes.contains(&false),
                "{name} {labels:?} is quiet in no test"
            );
        }
    }
}
