use super::*;

#[expect(
    clippy::unnecessary_wraps,
    reason = "an image of the outbox may be absent"
)]
fn image(user_id: i64, version: i64) -> Option<Json<WireImage>> {
    Some(Json(WireImage {
        user_id,
        username: format!("user-{user_id}"),
        is_active: true,
        daily_quota: 1,
        version,
        keys: vec![],
    }))
}

fn row(
    id: i64,
    user_id: i64,
    old: Option<Json<WireImage>>,
    new: Option<Json<WireImage>>,
) -> OutboxRow {
    OutboxRow {
        id,
        epoch: 0,
        sequence: 0,
        user_id,
        version: id,
        old_image: old,
        new_image: new,
        traceparent: None,
        tracestate: None,
        occurred_at: OffsetDateTime::UNIX_EPOCH,
        committed_at: OffsetDateTime::UNIX_EPOCH,
        superseded_traces: vec![],
    }
}

fn empty() -> RelayState {
    RelayState {
        term: 1,
        epoch: 1,
        sequence: 10,
        user_count: 0,
        digest: UserSetDigest::default(),
        digest_version: DIGEST_VERSION,
        audits: 0,
        audited_at: None,
    }
}

#[test]
fn a_batch_may_end_between_two_rows_of_one_statement() {
    // The trigger inside the statement queued version 5 before version 4.
    let versioned = |mut row: OutboxRow, version| {
        row.version = version;
        row
    };
    let rows = vec![
        versioned(row(1, 7, image(7, 2), image(7, 3)), 3),
        versioned(row(2, 7, image(7, 4), image(7, 5)), 5),
    ];
    let left = versioned(row(3, 7, image(7, 3), image(7, 4)), 4);
    let first = plan(rows, empty());
    assert_eq!((first.rows[0].id, first.rows[0].version), (2, 5));
    let whole = plan(vec![left], first.state).state;
    let mut expected = empty();
    expected.fold(&row(0, 7, image(7, 2), image(7, 5)));
    assert_eq!(
        (whole.digest, whole.user_count),
        (expected.digest, expected.user_count)
    );
}

#[test]
fn of_two_rows_of_one_statement_the_higher_version_is_the_newest() {
    let mut inner = row(1, 7, image(7, 4), image(7, 5));
    inner.version = 5;
    let mut outer = row(2, 7, image(7, 3), image(7, 4));
    outer.version = 4;
    let batch = plan(vec![inner, outer], empty());
    assert_eq!(
        (batch.rows[0].id, batch.superseded.as_slice()),
        (1, [2].as_slice())
    );
    let image = |image: &Option<Json<WireImage>>| image.as_ref().map(|Json(it)| it.version);
    let (old, new) = (&batch.rows[0].old_image, &batch.rows[0].new_image);
    assert_eq!((image(old), image(new)), (Some(3), Some(5)));
}

#[test]
fn numbers_are_contiguous_in_the_order_of_the_rows() {
    let rows = vec![
        row(4, 1, None, image(1, 4)),
        row(7, 2, None, image(2, 7)),
        row(9, 3, None, image(3, 9)),
    ];
    let batch = plan(rows, empty());
    let numbers: Vec<_> = batch
        .rows
        .iter()
        .map(|row| (row.id, row.sequence))
        .collect();
    assert_eq!(numbers, [(4, 11), (7, 12), (9, 13)]);
    assert_eq!(batch.state.sequence, 13);
}

#[test]
fn of_each_user_only_the_newest_change_gets_a_number() {
    let rows = vec![
        row(1, 1, None, image(1, 1)),
        row(2, 2, None, image(2, 2)),
        row(3, 1, image(1, 1), image(1, 3)),
    ];
    let batch = plan(rows, empty());
    assert_eq!(batch.superseded, [1]);
    let numbers: Vec<_> = batch
        .rows
        .iter()
        .map(|row| (row.id, row.sequence))
        .collect();
    assert_eq!(numbers, [(2, 11), (3, 12)]);
    assert!(
        batch.rows[1].old_image.is_none(),
        "it stands for the creation, too"
    );
}

#[test]
fn the_newest_change_is_that_of_the_highest_version_whatever_the_ids() {
    let mut rows = vec![
        row(11, 1, image(1, 8), image(1, 9)),
        row(12, 1, image(1, 6), image(1, 8)),
    ];
    (rows[0].version, rows[1].version) = (9, 8);
    let batch = plan(rows, empty());
    assert_eq!(batch.superseded, [12]);
    let kept = &batch.rows[0];
    assert_eq!((kept.id, kept.version), (11, 9));
    let version = |image: &Option<Json<WireImage>>| image.as_ref().map(|image| image.version);
    assert_eq!(
        (version(&kept.old_image), version(&kept.new_image)),
        (Some(6), Some(9))
    );
}

#[test]
fn count_and_digest_follow_what_the_users_amount_to() {
    let created = plan(
        vec![row(1, 1, None, image(1, 1)), row(2, 2, None, image(2, 2))],
        empty(),
    )
    .state;
    assert_eq!(created.user_count, 2);
    let left = plan(vec![row(3, 1, image(1, 1), None)], created).state;
    assert_eq!(left.user_count, 1);
    let only_second = plan(vec![row(2, 2, None, image(2, 2))], empty()).state;
    assert_eq!(left.digest, only_second.digest);
}

#[test]
fn a_user_created_and_deleted_in_one_batch_leaves_no_trace_in_the_digest() {
    let rows = vec![row(1, 1, None, image(1, 1)), row(2, 1, image(1, 1), None)];
    let batch = plan(rows, empty());
    assert_eq!(batch.state.user_count, 0);
    assert_eq!(batch.state.digest, UserSetDigest::default());
    assert_eq!(batch.rows.len(), 1, "the deletion is told all the same");
}

fn at(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(seconds).expect("a time")
}

#[test]
fn a_change_was_committed_no_sooner_than_all_before_had_a_number() {
    let made = |id, seconds| {
        let mut made = row(id, id, None, image(id, id));
        made.occurred_at = at(seconds);
        made.committed_at = at(seconds);
        made
    };
    let mut batch = plan(vec![made(1, 10), made(2, 20)], empty());
    batch.committed_after(at(15));
    let committed: Vec<_> = batch.rows.iter().map(|row| row.committed_at).collect();
    assert_eq!(committed, [at(15), at(20)]);
    // What is told of the change itself stays.
    assert_eq!(batch.rows[0].occurred_at, at(10));
}

#[test]
fn a_row_that_stands_for_older_changes_waits_since_the_oldest_and_keeps_their_traces() {
    let trace = |n: u8| format!("00-0123456789abcdef0123456789abcdef-0123456789abcd{n:02x}-01");
    let mut rows = vec![
        row(1, 1, None, image(1, 1)),
        row(2, 1, image(1, 1), image(1, 2)),
        row(3, 1, image(1, 2), image(1, 3)),
    ];
    for (row, seconds) in rows.iter_mut().zip(10..) {
        row.committed_at = at(seconds);
        row.traceparent = Some(trace(u8::try_from(seconds).expect("few")));
    }
    let batch = plan(rows, empty());
    assert_eq!(batch.rows[0].committed_at, at(10));
    let traces = batch.rows[0].superseded_traces.iter();
    let traces: Vec<_> = traces.map(|it| it.traceparent.clone()).collect();
    assert_eq!(traces, [Some(trace(10)), Some(trace(11))]);
}

#[test]
fn only_a_look_that_took_all_it_saw_left_nothing() {
    let look = |rows: i64| {
        let rows = (0..rows).map(|id| row(id, id, None, image(id, id)));
        let batch = plan(rows.collect(), empty());
        Look {
            at: at(0),
            batch: (!batch.rows.is_empty()).then_some(batch),
        }
    };
    assert!(look(0).left_nothing(2) && look(1).left_nothing(2));
    assert!(!look(2).left_nothing(2));
}
