use serde_json::json;

use super::*;

const DURATION: Duration = Duration::from_secs(15);

fn lease(holder: Option<&str>, version: &str) -> Lease {
    serde_json::from_value(json!({
        "metadata": {"name": "resync", "resourceVersion": version},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15},
    }))
    .expect("a Lease")
}

fn empty_lease() -> Lease {
    serde_json::from_value(json!({"metadata": {"name": "resync", "resourceVersion": "1"}}))
        .expect("a Lease")
}

fn waits_for(holder: &str) -> Decision {
    Decision::Wait(holder.to_owned())
}

#[test]
fn a_lease_that_nobody_holds_is_taken() {
    let now = Instant::now();
    for lease in [empty_lease(), lease(None, "1"), lease(Some(""), "1")] {
        assert_eq!(Sight::default().look(&lease, "me", now), Decision::Take);
    }
}

#[test]
fn a_container_that_was_restarted_takes_its_own_lease_at_once() {
    let lease = lease(Some("me"), "1");
    assert_eq!(
        Sight::default().look(&lease, "me", Instant::now()),
        Decision::Take
    );
}

#[test]
fn a_lease_that_is_renewed_is_never_taken() {
    let (mut sight, mut now) = (Sight::default(), Instant::now());
    for version in 0..20 {
        let lease = lease(Some("other"), &version.to_string());
        assert_eq!(sight.look(&lease, "me", now), waits_for("other"));
        now += Duration::from_secs(14);
        assert_eq!(sight.look(&lease, "me", now), waits_for("other"));
    }
}

#[test]
fn the_lease_of_a_run_that_died_is_taken_after_its_duration() {
    let (mut sight, now) = (Sight::default(), Instant::now());
    let lease = lease(Some("dead"), "1");
    assert_eq!(sight.look(&lease, "me", now), waits_for("dead"));
    let almost = now + DURATION - Duration::from_millis(1);
    assert_eq!(sight.look(&lease, "me", almost), waits_for("dead"));
    assert_eq!(sight.look(&lease, "me", now + DURATION), Decision::Take);
}

#[test]
fn a_renew_time_far_in_the_past_or_future_of_this_nodes_clock_does_not_matter() {
    for renewed in ["2001-01-01T00:00:00.000000Z", "2101-01-01T00:00:00.000000Z"] {
        let mut lease = lease(Some("other"), "1");
        let spec = lease.spec.as_mut().expect("a spec");
        spec.renew_time = Some(MicroTime(renewed.parse().expect("a time")));
        let (mut sight, now) = (Sight::default(), Instant::now());
        assert_eq!(sight.look(&lease, "me", now), waits_for("other"));
        assert_eq!(sight.look(&lease, "me", now + DURATION), Decision::Take);
    }
}

#[test]
fn after_an_outage_of_the_api_server_the_holder_gets_its_whole_duration_again() {
    let (mut sight, now) = (Sight::default(), Instant::now());
    let lease = lease(Some("other"), "1");
    assert_eq!(sight.look(&lease, "me", now), waits_for("other"));
    sight.lost();
    let back = now + Duration::from_mins(1);
    assert_eq!(sight.look(&lease, "me", back), waits_for("other"));
    assert_eq!(sight.look(&lease, "me", back + DURATION), Decision::Take);
}

#[test]
fn who_takes_the_lease_writes_itself_and_counts_the_change_of_hands() {
    let now = Timestamp::now();
    let first = taken(empty_lease(), "a", 15, now).spec.expect("a spec");
    assert_eq!(first.holder_identity.as_deref(), Some("a"));
    assert_eq!(first.lease_duration_seconds, Some(15));
    assert_eq!(first.lease_transitions, Some(1));
    assert_eq!(first.renew_time, Some(MicroTime(now)));

    let mut lease = empty_lease();
    lease.spec = Some(first);
    let again = taken(lease.clone(), "a", 15, now).spec.expect("a spec");
    assert_eq!(again.lease_transitions, Some(1));
    let lease = taken(lease, "b", 30, now);
    assert_eq!(
        lease.metadata.resource_version.as_deref(),
        Some("1"),
        "written only over what was read"
    );
    let second = lease.spec.expect("a spec");
    assert_eq!(second.lease_transitions, Some(2));
    assert_eq!(second.lease_duration_seconds, Some(30));
}
