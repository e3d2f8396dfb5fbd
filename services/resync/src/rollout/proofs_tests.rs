use serde_json::{Value, json};
use time::macros::datetime;

use super::*;

const ENDED: OffsetDateTime = datetime!(2026-11-23 10:00:00 UTC);

fn sync() -> FullSync {
    serde_json::from_value(json!({
        "sync_id": "0198c5a0-0000-7000-8000-000000000001", "status": "completed",
        "finished_at": "2026-11-23T10:00:00Z", "users_total": 10, "users_published": 10,
        "epoch": 2, "sequence": 100, "error": null,
    }))
    .expect("a full sync")
}

fn pod(name: &str, status: &Value) -> Arc<Pod> {
    let value = json!({
        "metadata": {"name": name, "uid": name, "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "s", "uid": "s", "controller": true},
        ]},
        "status": status,
    });
    Arc::new(serde_json::from_value(value).expect("a pod"))
}

fn ready(name: &str) -> Arc<Pod> {
    pod(
        name,
        &json!({"conditions": [{"type": "Ready", "status": "True"}]}),
    )
}

fn replica(instance: &str, proven: Option<(i64, i64)>, heard: OffsetDateTime) -> Replica {
    Replica {
        instance: instance.to_owned(),
        proven_epoch: proven.map(|(epoch, _)| epoch),
        proven_sequence: proven.map(|(_, sequence)| sequence),
        received_at: heard,
    }
}

fn set(pods: &[Arc<Pod>]) -> PodSet {
    let revision = json!({"deployment.kubernetes.io/revision": "1"});
    let deployment = json!({
        "metadata": {"uid": "d", "annotations": revision.clone()},
        "spec": {"replicas": pods.len(), "selector": {}, "template": {}},
    });
    let replica_set = json!({
        "metadata": {"uid": "s", "annotations": revision, "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d", "uid": "d", "controller": true},
        ]},
        "spec": {"replicas": pods.len(), "selector": {}},
    });
    let replica_set = Arc::new(serde_json::from_value(replica_set).expect("a ReplicaSet"));
    let deployment = serde_json::from_value(deployment).expect("a Deployment");
    PodSet::find(&deployment, &[replica_set], pods).expect("all there")
}

/// Why the pod is waited for, if it is.
fn why(pod: Arc<Pod>, replicas: &[Replica]) -> Option<String> {
    let pods = [pod];
    let target = Target::of(&sync()).expect("a position");
    let standing = judge(&set(&pods), &pods, replicas, &target);
    let proven = usize::from(standing.waiting.is_empty());
    assert_eq!(standing.proven.len(), proven, "either or: {standing:?}");
    standing.waiting.into_iter().next().map(|(_, why)| why)
}

fn later() -> OffsetDateTime {
    ENDED + Duration::seconds(5)
}

#[test]
fn a_ready_replica_proven_at_or_past_the_sync_is_done() {
    for proven in [(2, 100), (2, 101), (3, 1)] {
        assert_eq!(
            why(ready("a"), &[replica("a", Some(proven), later())]),
            None
        );
    }
}

#[test]
fn a_replica_proven_before_the_sync_is_waited_for_with_both_positions() {
    for proven in [(2, 99), (1, 5000)] {
        let why = why(ready("a"), &[replica("a", Some(proven), later())]).expect("waits");
        assert!(why.contains(&format!("{}/{}", proven.0, proven.1)), "{why}");
        assert!(why.contains("2/100"), "{why}");
    }
}

#[test]
fn a_proof_that_may_be_older_than_the_sync_does_not_count_although_its_position_fits() {
    // No user has changed for an hour: the position is the same before and after the sync.
    for heard in [
        ENDED - Duration::seconds(1),
        ENDED,
        ENDED + Duration::seconds(3),
    ] {
        let why = why(ready("a"), &[replica("a", Some((2, 100)), heard)]).expect("waits");
        assert!(why.contains("newer report"), "{why}");
    }
}

#[test]
fn a_replica_that_is_not_proven_or_unknown_to_server_b_is_waited_for() {
    let unproven = why(ready("a"), &[replica("a", None, later())]).expect("waits");
    assert!(unproven.contains("not proven"), "{unproven}");
    let unknown = why(ready("a"), &[replica("b", Some((2, 100)), later())]).expect("waits");
    assert!(unknown.contains("not reported"), "{unknown}");
}

#[test]
fn a_pod_that_is_not_ready_is_waited_for_however_well_proven_with_its_reason() {
    let proven = [replica("a", Some((2, 100)), later())];
    let unready = json!({"type": "Ready", "status": "False", "reason": "ContainersNotReady"});
    let pulling = json!({
        "conditions": [unready.clone()],
        "containerStatuses": [{
            "name": "server-a", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "ImagePullBackOff"}},
        }],
    });
    let unscheduled = json!({"conditions": [
        {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"},
    ]});
    for (status, reason) in [
        (json!({}), "not ready"),
        (json!({"conditions": [unready]}), "not ready"),
        (pulling, "ImagePullBackOff"),
        (unscheduled, "0/3 nodes are available"),
    ] {
        let why = why(pod("a", &status), &proven).expect("waits");
        assert!(why.contains(reason), "{why}");
    }
}

#[test]
fn of_several_the_done_ones_are_counted_and_the_others_named() {
    let pods = [ready("a"), ready("b"), ready("c")];
    let replicas = [
        replica("a", Some((2, 100)), later()),
        replica("b", None, later()),
    ];
    let target = Target::of(&sync()).expect("a position");
    let standing = judge(&set(&pods), &pods, &replicas, &target);
    let text = standing.to_string();
    assert_eq!(
        text,
        "1 of 3 replicas proven: b is not proven; c has not reported to server B"
    );
}

#[test]
fn a_sync_that_does_not_tell_its_position_or_end_is_no_target() {
    let without = |field: fn(&mut FullSync)| {
        let mut sync = sync();
        field(&mut sync);
        Target::of(&sync).is_none()
    };
    assert!(without(|sync| sync.epoch = None));
    assert!(without(|sync| sync.sequence = None));
    assert!(without(|sync| sync.finished_at = None));
}
