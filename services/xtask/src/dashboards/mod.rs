//! The Grafana dashboards of `observability/dashboards`: written here in short, committed as the JSON that Grafana imports.

mod identity_sync;
mod model;
mod overview;
mod rollouts;
mod sms;

use model::Dashboard;

/// File names and texts.
pub fn files() -> Vec<(String, String)> {
    let file = |dashboard: Dashboard| {
        let name = dashboard.file_name();
        (name, format!("{:#}\n", dashboard.into_json()))
    };
    all().into_iter().map(file).collect()
}

fn all() -> [Dashboard; 4] {
    [
        overview::dashboard(),
        identity_sync::dashboard(),
        sms::dashboard(),
        rollouts::dashboard(),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    fn panels(dashboard: &Value) -> Vec<&Value> {
        dashboard["panels"]
            .as_array()
            .into_iter()
            .flatten()
            .collect()
    }

    #[test]
    fn uids_and_the_ids_of_panels_are_there_once() {
        let dashboards: Vec<Value> = all().into_iter().map(Dashboard::into_json).collect();
        let uids: BTreeSet<_> = dashboards.iter().map(|it| it["uid"].to_string()).collect();
        assert_eq!(uids.len(), dashboards.len());
        for dashboard in &dashboards {
            let ids: BTreeSet<_> = panels(dashboard)
                .iter()
                .map(|it| it["id"].to_string())
                .collect();
            assert_eq!(ids.len(), panels(dashboard).len(), "{}", dashboard["title"]);
        }
    }

    #[test]
    fn panels_fill_their_rows_without_overlapping() {
        for dashboard in all().map(Dashboard::into_json) {
            let mut cells = BTreeSet::new();
            let mut ends = BTreeSet::new();
            for panel in panels(&dashboard) {
                let at = |key: &str| panel["gridPos"][key].as_u64().expect("is a number");
                for x in at("x")..at("x") + at("w") {
                    for y in at("y")..at("y") + at("h") {
                        assert!(x < 24 && cells.insert((x, y)), "{}", panel["title"]);
                    }
                }
                ends.insert(at("y") + at("h"));
            }
            let last = ends.last().expect("has panels");
            assert_eq!(
                cells.len() as u64,
                last * 24,
                "{} has a hole",
                dashboard["title"]
            );
        }
    }

    #[test]
    fn all_is_what_belongs_to_identity_sync_and_not_the_whole_cluster() {
        for dashboard in all().map(Dashboard::into_json) {
            let variables = dashboard["templating"]["list"].as_array().expect("a list");
            let queried: Vec<_> = (variables.iter())
                .filter(|it| it["type"] == "query")
                .collect();
            assert_eq!(queried.len(), 2);
            for variable in queried {
                assert!(variable.get("allValue").is_none(), "{variable}");
                let asks = variable["definition"].as_str().expect("is a text");
                assert!(asks.contains("identity_build_info"), "{asks}");
            }
        }
    }

    #[test]
    fn every_panel_is_described_and_asks_only_what_the_variables_choose() {
        for dashboard in all().map(Dashboard::into_json) {
            for panel in panels(&dashboard)
                .into_iter()
                .filter(|it| it["type"] != "row")
            {
                let title = &panel["title"];
                assert_ne!(panel["description"], "", "{title}");
                assert_ne!(panel["fieldConfig"]["defaults"]["unit"], "", "{title}");
                assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
                let targets = panel["targets"].as_array().expect("has targets");
                assert!(!targets.is_empty(), "{title}");
                for target in targets {
                    let expression = target["expr"].as_str().expect("is a text");
                    assert!(
                        expression.contains(r#"namespace=~"$namespace""#),
                        "{expression}"
                    );
                    assert!(!expression.contains('@'), "{expression}");
                    assert_ne!(target["legendFormat"], "", "{title}");
                }
            }
        }
    }
}
