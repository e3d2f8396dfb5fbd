use super::*;

fn record(pairs: &[(&str, &str)]) -> Result<Record, String> {
    let pairs = pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    Record::from_data(Some(pairs.collect()))
}

fn outcome(outcome: &str) -> Details {
    vec![("outcome", outcome.to_owned())]
}

#[test]
fn an_empty_config_map_is_a_record_without_syncs() {
    let record = Record::from_data(None).expect("empty is fine");
    assert_eq!(record.begun(), 0);
    assert!(!record.fulfils(0));
}

#[test]
fn what_is_written_is_read_again() {
    let mut record = Record::default();
    let number = record.begin(outcome("running"));
    record.end(Some(number), true, outcome("succeeded"));
    let again = Record::from_data(Some(record.clone().into_data()));
    assert_eq!(again, Ok(record));
}

#[test]
fn a_run_is_fulfilled_by_a_sync_that_began_and_succeeded_after_its_request() {
    let mut record = record(&[("begun", "4"), ("succeeded", "4")]).expect("numbers");
    let seen = record.begun();
    assert!(!record.fulfils(seen), "sync 4 began before the request");
    let five = record.begin(outcome("running"));
    assert!(!record.fulfils(seen), "sync 5 has not ended");
    record.end(Some(five), true, outcome("succeeded"));
    assert!(record.fulfils(seen));
}

#[test]
fn a_sync_that_was_under_way_at_the_request_does_not_fulfil_it() {
    let mut record = Record::default();
    let under_way = record.begin(outcome("running"));
    let seen = record.begun();
    record.end(Some(under_way), true, outcome("succeeded"));
    assert!(!record.fulfils(seen));
}

#[test]
fn a_sync_that_failed_fulfils_nothing() {
    for outcome_of_the_sync in ["failed", "interrupted"] {
        let mut record = Record::default();
        let seen = record.begun();
        let number = record.begin(outcome("running"));
        record.end(Some(number), false, outcome(outcome_of_the_sync));
        assert!(!record.fulfils(seen));
        assert_eq!(record.detail("outcome"), outcome_of_the_sync);
    }
}

#[test]
fn a_run_that_lost_its_lease_does_not_overwrite_what_its_successor_wrote() {
    let mut record = Record::default();
    let slow = record.begin(outcome("running"));
    let successor = record.begin(outcome("running"));
    record.end(Some(successor), true, outcome("succeeded"));
    record.end(Some(slow), false, outcome("failed"));
    assert_eq!(record.detail("outcome"), "succeeded");
    assert!(record.fulfils(1));
}

#[test]
fn the_late_success_of_an_older_sync_does_not_take_back_a_newer_one() {
    let mut record = Record::default();
    let slow = record.begin(outcome("running"));
    let successor = record.begin(outcome("running"));
    record.end(Some(successor), true, outcome("succeeded"));
    record.end(Some(slow), true, outcome("succeeded"));
    assert!(record.fulfils(1));
}

#[test]
fn after_the_count_was_reset_a_sync_from_before_the_reset_fulfils_nothing() {
    let mut before = record(&[("begun", "6"), ("succeeded", "6")]).expect("numbers");
    let old = before.begin(outcome("running"));
    let mut reset = Record::default();
    let seen = reset.begun();
    reset.end(Some(old), true, outcome("succeeded"));
    assert!(!reset.fulfils(seen), "sync 7 began before the request");
    let one = reset.begin(outcome("running"));
    reset.end(Some(one), true, outcome("succeeded"));
    assert!(reset.fulfils(seen));
}

#[test]
fn a_number_that_is_none_is_an_error_that_names_the_key_and_the_fix() {
    let error = record(&[("begun", "many")]).expect_err("no number");
    assert!(
        error.contains("data.begun") && error.contains("remove the key"),
        "{error}"
    );
}

#[test]
fn the_count_never_falls_behind_a_success_that_was_edited_in() {
    let mut record = record(&[("begun", "2"), ("succeeded", "7")]).expect("numbers");
    assert_eq!(record.begin(outcome("running")), 8);
}
