use serde_json::json;

use super::*;

fn progress(status: &str, standing: Standing) -> Progress {
    let sync = json!({
        "sync_id": "0198c5a0-0000-7000-8000-000000000001", "status": status,
        "finished_at": null, "users_total": 10, "users_published": 4,
        "epoch": null, "sequence": null, "error": null,
    });
    Progress {
        number: Some(1),
        sync: Some(serde_json::from_value(sync).expect("a full sync")),
        standing,
    }
}

fn half_way() -> Standing {
    Standing {
        proven: vec!["a".to_owned()],
        waiting: vec![("b".to_owned(), "is not ready (ImagePullBackOff)".to_owned())],
        unknown: Some("ReplicaSet new has 2 of 4 pods".to_owned()),
    }
}

#[test]
fn a_run_that_is_cut_short_tells_how_its_replicas_stand() {
    let text = progress("completed", half_way()).to_string();
    assert_eq!(
        text,
        "ReplicaSet new has 2 of 4 pods; 1 of 2 replicas proven: b is not ready (ImagePullBackOff)"
    );
}

#[test]
fn a_run_that_is_cut_short_tells_how_far_the_sync_is() {
    let text = progress("running", Standing::default()).to_string();
    assert!(text.ends_with("running: 4 of 10 users"), "{text}");
}

#[test]
fn a_run_that_hangs_at_the_time_limit_fails_by_what_it_waited_for() {
    let failure = Progress::default().overdue();
    assert!(matches!(failure, Failure::ServerB(_)), "{failure}");
    let failure = progress("running", Standing::default()).overdue();
    assert!(matches!(failure, Failure::Sync(_)), "{failure}");
    let failure = progress("completed", half_way()).overdue();
    assert!(matches!(failure, Failure::Replicas(_)), "{failure}");
}
