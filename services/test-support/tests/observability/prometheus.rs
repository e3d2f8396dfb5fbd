//! Dashboards and rules on what real processes expose.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::ensure;
use test_support::app::DEADLINE;
use test_support::eventually;

use crate::expressions::{self, Named, has_data};
use crate::stack::Stack;

/// The oldest change has waited for half a minute then.
const LONG: Duration = Duration::from_mins(2);
/// Fire at once, by what [`Stack::poison`], [`Stack::drift`] and [`Stack::fail_resync`] do.
const FIRED: [&str; 5] = [
    "IdentityAuthEventsDeadLettered",
    "IdentityDigestMismatch",
    "IdentityDrift",
    "IdentityResyncFailed",
    "IdentitySmsDeadLettered",
];
/// After a minute without server B, and without the table of user-service.
const AFTER_A_MINUTE: [&str; 2] = ["IdentityAuthEventsStuck", "IdentityReplicaStale"];
/// When server B is back.
const LEFT_BEHIND: [&str; 2] = ["IdentitySmsBacklogOld", "IdentitySmsQueueSlow"];
/// SMS that wait while server B does nothing.
const LATE_SENDS: usize = 40;
/// Fire once it has lasted for minutes; until then they are pending.
const LATE: [&str; 2] = ["IdentityChangesLateFastBurn", "IdentityChangesLateSlowBurn"];
const WITHOUT_BROKER: [&str; 6] = [
    "IdentityBrokerDisconnected",
    "IdentityNoReplicaReady",
    "IdentityNotReady",
    "IdentityOutboxOld",
    "IdentitySendsFailingFastBurn",
    "IdentitySendsFailingSlowBurn",
];
/// The collector has never been there.
const WITHOUT_B: [&str; 4] = [
    "IdentityNoRelayLeader",
    "IdentityReplicaUnproven",
    "IdentityTargetDown",
    "IdentityTraceExportFailing",
];

#[test]
fn every_panel_and_rule_has_data_under_load_and_alerts_tell_what_is_done_to_the_stack() {
    let mut stack = Stack::start();
    stack.full_sync();
    // The first thing: within three minutes before, nothing may have been stored.
    nothing_is_stored(&stack);
    let expressions = [
        expressions::of_panels(&stack.prometheus),
        expressions::of_rules(&stack.prometheus, "recording"),
        expressions::of_rules(&stack.prometheus, "alerting"),
    ]
    .concat();
    assert!(expressions.len() > 100, "{} expressions", expressions.len());
    has_metrics(&stack, &expressions);
    have_data(&mut stack, &expressions);
    // Recording rules have recorded, under their own names.
    for (name, _) in expressions::of_rules(&stack.prometheus, "recording") {
        let recorded = has_data(&stack.prometheus, &name).expect("Prometheus answers");
        assert!(recorded, "{name} was not recorded");
    }
    assert_eq!(alerts(&stack, "firing"), BTreeSet::new());

    stack.late_changes();
    eventually(DEADLINE, "the alert of late changes", || {
        stack.load();
        contains(&alerts(&stack, "pending"), &LATE)
    });
    stack.poison();
    stack.drift();
    stack.fail_resync();
    eventually(DEADLINE, "alerts of what was done", || {
        stack.load();
        let firing = alerts(&stack, "firing");
        let expected: BTreeSet<String> = FIRED.map(str::to_owned).into();
        ensure!(firing == expected, "{firing:?}");
        Ok(())
    });
    audits_fail(&stack);
    a_provider_and_measurements_fail(&stack);
    a_minute_of_silence(&mut stack);
    stack.lose_broker();
    eventually(LONG, "alerts of a broker that is away", || {
        stack.try_load(20);
        contains(&alerts(&stack, "pending"), &WITHOUT_BROKER)
    });
    stack.app.kill_b();
    eventually(DEADLINE, "alerts of a server B that is away", || {
        contains(&alerts(&stack, "pending"), &WITHOUT_B)
    });
}

fn nothing_is_stored(stack: &Stack) {
    let held = stack.hold_stored_sms();
    eventually(DEADLINE, "the alert of SMS that are not stored", || {
        // Few: of all SMS of these minutes, more than 1 % are to be the late ones.
        stack.try_load(1);
        // Of two servers that are scraped one after the other, either may be ahead for a second.
        let since = "time() - ALERTS_FOR_STATE{alertname='IdentitySmsIntakeStuck'} > 5";
        ensure!(has_data(&stack.prometheus, since)?, "not for five seconds");
        Ok(())
    });
    let stored = stack.app.sql("SELECT count(*) FROM sms_messages");
    assert_eq!(stored, "0");
    drop(held);
    eventually(DEADLINE, "SMS to be stored", || {
        ensure!(!alerts(stack, "pending").contains("IdentitySmsIntakeStuck"));
        Ok(())
    });
}

fn audits_fail(stack: &Stack) {
    let mend = stack.break_audits();
    eventually(DEADLINE, "alerts of audits that fail", || {
        contains(&alerts(stack, "firing"), &["IdentityFullSyncFailed"])?;
        contains(&alerts(stack, "pending"), &["IdentityAuditFailing"])
    });
    let _ = stack.app.sql(&mend);
    eventually(DEADLINE, "an audit that does not", || {
        ensure!(!alerts(stack, "pending").contains("IdentityAuditFailing"));
        Ok(())
    });
}

fn a_provider_and_measurements_fail(stack: &Stack) {
    eventually(DEADLINE, "the alert of a provider that fails", || {
        stack.fail_provider();
        contains(&alerts(stack, "pending"), &["IdentitySmsProviderFailing"])
    });
    let reports = stack.hold_reports();
    // A look takes as long as Prometheus waits for one: it sees the count when the looks are short again.
    eventually(DEADLINE, "a look that fails", || {
        ensure!(stack.unmeasured() > 0.0);
        Ok(())
    });
    drop(reports);
    eventually(DEADLINE, "the alert of gauges that cannot be read", || {
        contains(&alerts(stack, "pending"), &["IdentityMeasurementsFailing"])
    });
}

/// Server B does nothing, and the database of user-service no more.
fn a_minute_of_silence(stack: &mut Stack) {
    let references = stack.hold_references();
    eventually(DEADLINE, "an alert of a pool", || {
        contains(
            &alerts(stack, "pending"),
            &["IdentityDatabasePoolExhausted"],
        )
    });
    stack.freeze_b();
    let sms = stack.hold_an_sms();
    stack.try_load(LATE_SENDS);
    eventually(LONG, "alerts of a minute's silence", || {
        contains(&alerts(stack, "pending"), &AFTER_A_MINUTE)
    });
    drop(references);
    stack.wake_b();
    eventually(DEADLINE, "alerts of what has waited", || {
        contains(&alerts(stack, "pending"), &LEFT_BEHIND)
    });
    drop(sms);
}

fn contains(alerts: &BTreeSet<String>, expected: &[&str]) -> anyhow::Result<()> {
    let missing: Vec<&&str> = (expected.iter())
        .filter(|it| !alerts.contains(**it))
        .collect();
    ensure!(missing.is_empty(), "{missing:?} are missing: {alerts:?}");
    Ok(())
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
    let mut left: Vec<&Named> = expressions.iter().collect();
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

/// The names of the alerts in a state: `pending` or `firing`.
fn alerts(stack: &Stack, state: &str) -> BTreeSet<String> {
    let alerts = stack.prometheus.get("alerts").expect("Prometheus answers");
    let alerts = alerts["alerts"].as_array().cloned().unwrap_or_default();
    let named = alerts.iter().filter(|alert| alert["state"] == state);
    named
        .filter_map(|alert| alert["labels"]["alertname"].as_str().map(str::to_owned))
        .collect()
}
