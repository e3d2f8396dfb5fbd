use super::*;

fn ack(tag: u64, multiple: bool) -> Ack {
    Ack { tag, multiple }
}

#[test]
fn one_ack_covers_a_batch_without_poison() {
    assert_eq!(acks(&[4, 5, 6], &[]), [ack(6, true)]);
}

#[test]
fn an_ack_of_several_stops_before_the_first_poison() {
    assert_eq!(
        acks(&[4, 5, 7, 8], &[6, 9]),
        [ack(5, true), ack(7, false), ack(8, false)]
    );
}

#[test]
fn poison_at_the_head_of_a_batch_leaves_single_acks() {
    assert_eq!(acks(&[5, 6], &[4]), [ack(5, false), ack(6, false)]);
}

#[test]
fn a_batch_of_poison_needs_no_acks() {
    assert_eq!(acks(&[], &[1, 2]), []);
}
