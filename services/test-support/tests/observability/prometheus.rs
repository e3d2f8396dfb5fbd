//! Dashboards and rules on what real processes expose.

use std::collections::BTreeSet;

use anyhow::ensure;
use test_support::app::DEADLINE;
use test_support::eventually;

use crate::expressions::{self, Named, has_data};
use crate::stack::Stack;

/// Of kube-state-metrics, which only a cluster has; the rules' unit tests fill them.
const OF_A_CLUSTER: &str = "kube_job_";
/// Fire at once, by what [`Stack::poison`] and [`Stack::drift`] do.
const FIRED: [&str; 4] = [
    "IdentityAuthEventsDeadLettered",
    "IdentityDigestMismatch",
    "IdentityDrift",
    "IdentitySmsDeadLettered",
];

#[test]
fn every_panel_and_rule_has_data_under_load_and_alerts_fire_for_what_is_done_to_the_stack_alone() {
    let mut stack = Stack::start();
    stack.full_sync();
    let calm = [
        expressions::of_panels(),
        expressions::of_rules(&stack.prometheus, "recording"),
        expressions::of_rules(&stack.prometheus, "alerting"),
    ]
    .concat();
    assert!(calm.len() > 100, "{} expressions", calm.len());
    has_metrics(&stack, &calm);
    have_data(&mut stack, &calm);
    assert_eq!(firing(&stack), BTreeSet::new());

    stack.poison();
    stack.drift();
    eventually(DEADLINE, "alerts of what was done", || {
        stack.load();
        let firing = firing(&stack);
        let expected: BTreeSet<String> = FIRED.map(str::to_owned).into();
        ensure!(firing == expected, "{firing:?}");
        Ok(())
    });
    // Recording rules have recorded, under their own names.
    for (name, _) in expressions::of_rules(&stack.prometheus, "recording") {
        let recorded = has_data(&stack.prometheus, &name).expect("Prometheus answers");
        assert!(recorded, "{name} was not recorded");
    }
}

/// Every name that is asked for is one that a process exposes.
fn has_metrics(stack: &Stack, expressions: &[Named]) {
    let text = stack.metrics();
    let exposed = expressions::exposed(&text);
    let unknown: BTreeSet<&str> = expressions
        .iter()
        .flat_map(|(_, expression)| expressions::metrics(expression))
        .filter(|metric| !exposed.contains(metric))
        .collect();
    assert_eq!(unknown, BTreeSet::new(), "no process exposes these");
}

/// Goes on with the load until every expression has a value.
fn have_data(stack: &mut Stack, expressions: &[Named]) {
    let mut left: Vec<&Named> = expressions
        .iter()
        .filter(|(_, expression)| !expression.contains(OF_A_CLUSTER))
        .collect();
    eventually(DEADLINE, "data for every expression", || {
        stack.load();
        let mut without = Vec::new();
        for named in &left {
            if !has_data(&stack.prometheus, &named.1)? {
                without.push(*named);
            }
        }
        left = without;
        let told: Vec<String> = left
            .iter()
            .map(|(name, it)| format!("{name}: {it}"))
            .collect();
        ensure!(
            left.is_empty(),
            "nothing for {}\n{}",
            left.len(),
            told.join("\n")
        );
        Ok(())
    });
}

/// The names of firing alerts.
fn firing(stack: &Stack) -> BTreeSet<String> {
    let alerts = stack.prometheus.get("alerts").expect("Prometheus answers");
    let alerts = alerts["alerts"].as_array().cloned().unwrap_or_default();
    alerts
        .iter()
        .filter(|alert| alert["state"] == "firing")
        .map(|alert| {
            alert["labels"]["alertname"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        })
        .collect()
}
