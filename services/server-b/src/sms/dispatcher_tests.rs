use uuid::Uuid;

use super::*;
use crate::sms::provider::OutboundSms;

fn claimed(attempts: i32) -> ClaimedSms {
    ClaimedSms {
        sms: OutboundSms {
            message_id: Uuid::from_u128(7),
            user_id: 1,
            recipient: "+14155550123".to_owned(),
            sender: None,
            body: "text".to_owned(),
            encoding: "gsm7".to_owned(),
            segments: 1,
        },
        attempts,
        rejected: false,
        admitted_late: false,
        traceparent: None,
        tracestate: None,
    }
}

fn retryable() -> Result<Accepted, SendError> {
    Err(SendError::Retryable { code: "busy" })
}

#[test]
fn an_accepted_sms_is_sent_under_the_providers_own_name_for_it() {
    let provider_message_id = "abc".to_owned();
    let outcome = outcome_of(
        &claimed(1),
        "log",
        Ok(Accepted {
            provider_message_id: provider_message_id.clone(),
        }),
    );
    assert_eq!(outcome.status, "sent");
    assert_eq!(outcome.provider, Some("log"));
    assert_eq!(outcome.provider_message_id, Some(provider_message_id));
    assert_eq!(outcome.error_code, None);
    assert_eq!(metric_label(&outcome), "sent");
}

#[test]
fn a_retryable_error_queues_again_for_later() {
    let outcome = outcome_of(&claimed(1), "log", retryable());
    assert_eq!(
        (outcome.status, outcome.error_code),
        ("queued", Some("busy"))
    );
    assert!(outcome.retry_after >= FIRST_RETRY / 2);
    assert_eq!(metric_label(&outcome), "retry");
}

#[test]
fn the_last_retryable_error_fails() {
    let outcome = outcome_of(&claimed(MAX_ATTEMPTS), "log", retryable());
    assert_eq!(
        (outcome.status, outcome.error_code),
        ("failed", Some("busy"))
    );
}

#[test]
fn a_permanent_error_fails_at_once() {
    let refused = Err(SendError::Permanent { code: "barred" });
    let outcome = outcome_of(&claimed(1), "log", refused);
    assert_eq!(
        (outcome.status, outcome.error_code),
        ("failed", Some("barred"))
    );
}

#[test]
fn an_sms_that_was_put_back_is_due_at_once_and_names_no_provider() {
    let outcome = put_back(&claimed(1));
    assert_eq!((outcome.status, outcome.provider), ("queued", None));
    assert_eq!(outcome.retry_after, Duration::ZERO);
    assert_eq!(metric_label(&outcome), "put_back");
}

#[test]
fn delays_double_up_to_the_longest_and_jitter_takes_half_at_most() {
    assert_eq!(retry_after(1, 1.0), FIRST_RETRY);
    assert_eq!(retry_after(1, 0.0), FIRST_RETRY / 2);
    assert_eq!(retry_after(4, 1.0), FIRST_RETRY * 8);
    assert_eq!(retry_after(MAX_ATTEMPTS, 1.0), MAX_RETRY);
    assert_eq!(retry_after(i32::MAX, 1.0), MAX_RETRY);
}

#[test]
fn retries_go_on_for_hours() {
    let total: Duration = (1..MAX_ATTEMPTS).map(|tries| retry_after(tries, 0.5)).sum();
    assert!(total > Duration::from_mins(90), "{total:?}");
}
