use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use uuid::Uuid;

use super::*;
use crate::sms::provider::OutboundSms;

struct Named(&'static str);

impl Provider for Named {
    fn name(&self) -> &str {
        self.0
    }

    fn send<'a>(&'a self, _: &'a OutboundSms) -> BoxFuture<'a, Result<Accepted, SendError>> {
        std::future::ready(Err(SendError::Full)).boxed()
    }
}

fn route(names: &[&'static str]) -> Route {
    let providers = names
        .iter()
        .map(|name| Arc::new(Named(name)) as Arc<dyn Provider>);
    Route {
        prefix: String::new(),
        providers: providers.collect(),
        fall_over_when_refused: false,
    }
}

fn claimed(failures: usize) -> ClaimedSms {
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
        attempts: 3,
        failures: i32::try_from(failures).expect("few"),
        status: "sending".to_owned(),
        again: false,
        admitted_late: false,
        traceparent: None,
        tracestate: None,
    }
}

fn retryable() -> Result<Accepted, SendError> {
    Err(SendError::Retryable {
        code: ErrorCode::ProviderUnavailable,
        retry_after: None,
    })
}

fn refused() -> Result<Accepted, SendError> {
    Err(SendError::Permanent {
        code: ErrorCode::ProviderRefused,
    })
}

#[test]
fn an_accepted_sms_is_sent_under_the_providers_own_name_for_it() {
    let provider_message_id = Some("abc".to_owned());
    let accepted = Accepted {
        provider_message_id: provider_message_id.clone(),
    };
    let outcome = outcome_of(&claimed(0), &route(&["a"]), Ok(accepted), 0.5);
    assert_eq!(outcome.status, "sent");
    assert_eq!(outcome.provider.as_deref(), Some("a"));
    assert_eq!(outcome.provider_message_id, provider_message_id);
    assert_eq!(outcome.error_code, None);
    assert_eq!(metric_label(&outcome), "sent");
}

#[test]
fn a_retryable_error_queues_again_for_later() {
    let outcome = outcome_of(&claimed(0), &route(&["a"]), retryable(), 0.0);
    assert_eq!(
        (outcome.status, outcome.error_code),
        ("queued", Some(ErrorCode::ProviderUnavailable))
    );
    assert!(outcome.retry_after >= retry::FIRST / 2);
    assert_eq!(metric_label(&outcome), "retry");
}

#[test]
fn the_last_retryable_error_fails() {
    let last = claimed(retry::MAX_FAILURES - 1);
    let outcome = outcome_of(&last, &route(&["a"]), retryable(), 0.5);
    assert_eq!(
        (outcome.status, outcome.error_code),
        ("failed", Some(ErrorCode::ProviderUnavailable))
    );
}

#[test]
fn a_permanent_error_fails_at_once() {
    let outcome = outcome_of(&claimed(0), &route(&["a", "b"]), refused(), 0.5);
    assert_eq!(
        (outcome.status, outcome.error_code),
        ("failed", Some(ErrorCode::ProviderRefused))
    );
}

#[test]
fn a_permanent_error_falls_over_where_the_route_says_so_until_all_have_refused() {
    let route = Route {
        fall_over_when_refused: true,
        ..route(&["a", "b"])
    };
    let first = outcome_of(&claimed(0), &route, refused(), 0.5);
    assert_eq!(
        (first.status, first.retry_after),
        ("queued", Duration::ZERO)
    );
    assert_eq!(first.provider.as_deref(), Some("a"));
    let second = outcome_of(&claimed(1), &route, refused(), 0.5);
    assert_eq!(second.status, "failed");
    assert_eq!(second.provider.as_deref(), Some("b"));
}

#[test]
fn an_sms_that_was_put_back_is_due_at_once_and_names_no_provider() {
    let outcome = put_back(&claimed(0), Duration::ZERO);
    assert_eq!(
        (outcome.status, outcome.provider.as_ref()),
        ("queued", None)
    );
    assert_eq!(outcome.retry_after, Duration::ZERO);
    assert_eq!(metric_label(&outcome), "put_back");
}

#[test]
fn a_provider_without_room_was_not_asked_and_has_not_failed() {
    let outcome = outcome_of(&claimed(0), &route(&["a"]), Err(SendError::Full), 0.5);
    assert_eq!(
        (outcome.status, outcome.provider.as_ref()),
        ("queued", None)
    );
    assert_eq!(outcome.error_code, None);
    assert!(outcome.retry_after > Duration::ZERO);
}

#[test]
fn a_number_without_a_route_fails() {
    let outcome = no_route(&claimed(0));
    assert_eq!(
        (outcome.status, outcome.error_code),
        ("failed", Some(ErrorCode::NoRoute))
    );
    assert_eq!(metric_label(&outcome), "failed");
}
