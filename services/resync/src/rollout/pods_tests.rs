use serde_json::{Value, json};

use super::*;

fn deployment(generation: i64, observed: i64, revision: &str, replicas: i32) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {
            "name": "server-a", "uid": "deployment", "generation": generation,
            "annotations": {REVISION: revision},
        },
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "server-a", "release": "demo"}},
            "template": {},
        },
        "status": {"observedGeneration": observed},
    }))
    .expect("a Deployment")
}

fn replica_set(name: &str, revision: &str, replicas: i32) -> Arc<ReplicaSet> {
    let value = json!({
        "metadata": {
            "name": name, "uid": name, "annotations": {REVISION: revision},
            "ownerReferences": [owner("Deployment", "deployment")],
        },
        "spec": {"replicas": replicas, "selector": {}},
    });
    Arc::new(serde_json::from_value(value).expect("a ReplicaSet"))
}

fn owner(kind: &str, uid: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": kind, "name": uid, "uid": uid, "controller": true})
}

fn pod_value(name: &str, replica_set: &str) -> Value {
    json!({
        "metadata": {
            "name": name, "uid": format!("uid-{name}"),
            "ownerReferences": [owner("ReplicaSet", replica_set)],
        },
        "status": {"phase": "Running"},
    })
}

fn pod(name: &str, replica_set: &str) -> Arc<Pod> {
    Arc::new(serde_json::from_value(pod_value(name, replica_set)).expect("a pod"))
}

fn terminating(name: &str, replica_set: &str) -> Arc<Pod> {
    let mut value = pod_value(name, replica_set);
    value["metadata"]["deletionTimestamp"] = json!("2026-11-23T10:00:00Z");
    Arc::new(serde_json::from_value(value).expect("a pod"))
}

fn evicted(name: &str, replica_set: &str) -> Arc<Pod> {
    let mut value = pod_value(name, replica_set);
    value["status"]["phase"] = json!("Failed");
    Arc::new(serde_json::from_value(value).expect("a pod"))
}

fn names(set: &PodSet) -> Vec<&str> {
    set.iter().map(|(_, name)| name).collect()
}

#[test]
fn the_set_is_the_newest_replica_sets_pods_without_those_that_are_ending() {
    let sets = [replica_set("old", "1", 1), replica_set("new", "2", 2)];
    let pods = [
        pod("old-1", "old"),
        pod("new-1", "new"),
        pod("new-2", "new"),
        terminating("new-3", "new"),
        evicted("new-4", "new"),
        pod("stranger", "another Deployment's"),
    ];
    let set = PodSet::find(&deployment(2, 2, "2", 2), &sets, &pods).expect("all there");
    assert_eq!(names(&set), ["new-1", "new-2"]);
    assert!(!set.is_unfixed());
}

#[test]
fn a_replica_set_of_another_deployment_with_the_same_labels_is_not_taken() {
    let mut foreign = (*replica_set("foreign", "2", 1)).clone();
    foreign.metadata.owner_references = Some(vec![
        serde_json::from_value(owner("Deployment", "canary")).expect("a reference"),
    ]);
    let sets = [Arc::new(foreign)];
    let pods = [pod("foreign-1", "foreign")];
    let error = PodSet::find(&deployment(2, 2, "2", 1), &sets, &pods).expect_err("none of ours");
    assert!(error.contains("no ReplicaSet of revision 2"), "{error}");
}

#[test]
fn a_new_template_that_the_controller_has_not_taken_in_is_waited_for() {
    let sets = [replica_set("old", "1", 1)];
    let pods = [pod("old-1", "old")];
    let error = PodSet::find(&deployment(2, 1, "1", 1), &sets, &pods).expect_err("too early");
    assert!(error.contains("generation 2"), "{error}");
}

#[test]
fn pods_that_are_still_to_be_created_are_waited_for_with_the_controllers_reason() {
    let mut set = (*replica_set("new", "1", 2)).clone();
    set.status = serde_json::from_value(json!({"replicas": 1, "conditions": [
        {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota"},
    ]}))
    .expect("a status");
    let pods = [pod("new-1", "new")];
    let set = PodSet::find(&deployment(1, 1, "1", 2), &[Arc::new(set)], &pods).expect("1 of 2");
    assert!(set.is_unfixed());
    assert_eq!(names(&set), ["new-1"], "how it stands can be told already");
    let lacking = set.lacking().expect("one pod");
    assert!(lacking.contains("1 of 2 pods: exceeded quota"), "{lacking}");
}

#[test]
fn a_replica_set_that_a_rollout_has_not_scaled_up_yet_is_waited_for() {
    let sets = [replica_set("new", "2", 0)];
    let set = PodSet::find(&deployment(2, 2, "2", 2), &sets, &[]).expect("no pod yet");
    assert!(set.is_unfixed());
    assert_eq!(set.lacking(), Some("ReplicaSet new has 0 of 2 pods"));
}

#[test]
fn the_first_pods_of_a_rollout_are_not_all() {
    let pods = [pod("new-1", "new"), pod("old-1", "old")];
    for (of_set, wanted) in [(1, 4), (3, 4), (2, 1)] {
        let sets = [replica_set("old", "1", 3), replica_set("new", "2", of_set)];
        let set = PodSet::find(&deployment(2, 2, "2", wanted), &sets, &pods).expect("some there");
        assert!(set.is_unfixed(), "{of_set} of {wanted}");
    }
}

#[test]
fn a_number_that_an_autoscaler_changes_meanwhile_is_the_number_that_is_waited_for() {
    let pods: Vec<_> = (1..=3).map(|n| pod(&format!("new-{n}"), "new")).collect();
    let wants = |generation, observed, wanted, of_set| {
        let sets = [replica_set("new", "2", of_set)];
        PodSet::find(&deployment(generation, observed, "2", wanted), &sets, &pods)
    };
    assert!(wants(3, 2, 3, 2).is_err(), "not taken in by the controller");
    assert!(wants(3, 3, 3, 2).expect("known").is_unfixed());
    assert!(!wants(3, 3, 3, 3).expect("known").is_unfixed());
}

#[test]
fn a_paused_rollout_makes_no_more_pods_to_wait_for() {
    let sets = [replica_set("old", "1", 3), replica_set("new", "2", 1)];
    let mut deployment = deployment(2, 2, "2", 4);
    deployment.spec.as_mut().expect("a spec").paused = Some(true);
    let set = PodSet::find(&deployment, &sets, &[pod("new-1", "new")]).expect("all there");
    assert!(!set.is_unfixed());
}

#[test]
fn a_deployment_scaled_to_zero_has_nothing_to_wait_for() {
    let sets = [replica_set("new", "1", 0)];
    let set = PodSet::find(&deployment(1, 1, "1", 0), &sets, &[]).expect("nothing is wanted");
    assert!(!set.is_unfixed(), "it is as it should be");
    assert_eq!(names(&set), Vec::<&str>::new());
}

#[test]
fn a_pod_that_is_deleted_evicted_or_replaced_leaves_the_set() {
    let sets = [replica_set("new", "1", 4)];
    let all: Vec<_> = (1..=4).map(|n| pod(&format!("new-{n}"), "new")).collect();
    let mut set = PodSet::find(&deployment(1, 1, "1", 4), &sets, &all).expect("all there");
    // Pod 4 is gone; one of its name would have another uid.
    let later = [
        all[0].clone(),
        terminating("new-2", "new"),
        evicted("new-3", "new"),
        pod("new-5", "new"),
    ];
    set.drop_gone(&later);
    assert_eq!(names(&set), ["new-1"], "and a later pod does not join");
    assert!(!set.is_unfixed());
}

#[test]
fn a_set_whose_pods_are_all_gone_is_to_be_fixed_anew() {
    let sets = [replica_set("new", "1", 1)];
    let mut set =
        PodSet::find(&deployment(1, 1, "1", 1), &sets, &[pod("new-1", "new")]).expect("there");
    assert!(!set.is_unfixed());
    set.drop_gone(&[pod("new-2", "new")]);
    assert!(set.is_unfixed());
}

#[test]
fn the_pods_are_selected_by_the_deployments_labels() {
    let selector = selector(&deployment(1, 1, "1", 1));
    assert_eq!(selector.as_deref(), Ok("app=server-a,release=demo"));
}
