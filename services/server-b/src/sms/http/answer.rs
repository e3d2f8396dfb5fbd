//! What an answer means: its status, when to come back, and the gateway's own id.

use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use super::Place;
use crate::sms::codes::ErrorCode;
use crate::sms::provider::SendError;

/// Bytes of an answer that are read.
const MAX_ANSWER: usize = 64 * 1024;
/// Characters of a gateway's id at most.
pub const MAX_ID: usize = 256;
/// Longest that a gateway may send us away for.
const MAX_RETRY_AFTER: Duration = Duration::from_hours(1);

/// Exceptions from what statuses usually mean.
#[derive(Debug, Clone, Default)]
pub struct Statuses {
    /// Another try may succeed.
    pub retryable: Vec<u16>,
    /// No other try will succeed.
    pub permanent: Vec<u16>,
}

impl Statuses {
    /// `None` if the gateway took the SMS. Without exceptions 2xx are taken, 408, 429 and 5xx are worth another try, as are
    /// 401, 403 and 407, which say nothing of the SMS: a secret that has expired must not fail all of them. All others are
    /// refusals.
    #[must_use]
    pub fn error_of(&self, status: StatusCode, headers: &HeaderMap) -> Option<SendError> {
        let code = status.as_u16();
        let usually = status.is_server_error() || matches!(code, 401 | 403 | 407 | 408 | 429);
        if self.retryable.contains(&code) || (usually && !self.permanent.contains(&code)) {
            return Some(SendError::Retryable {
                code: match code {
                    401 | 403 | 407 => ErrorCode::ProviderUnauthorized,
                    429 => ErrorCode::ProviderBusy,
                    _ => ErrorCode::ProviderUnavailable,
                },
                retry_after: retry_after(headers, OffsetDateTime::now_utc()),
            });
        }
        let refused = !status.is_success() || self.permanent.contains(&code);
        refused.then_some(SendError::Permanent {
            code: ErrorCode::ProviderRefused,
        })
    }
}

/// Seconds or a date (RFC 9110, 10.2.3).
fn retry_after(headers: &HeaderMap, now: OffsetDateTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if let Ok(seconds) = text.parse() {
        Duration::from_secs(seconds)
    } else {
        let date = OffsetDateTime::parse(text, &Rfc2822).ok()?;
        (date - now).try_into().unwrap_or(Duration::ZERO)
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

/// The gateway's id, if the answer has a sane one.
pub async fn message_id(mut response: Response, place: &Place) -> Option<String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.ok()? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_ANSWER {
            return None;
        }
    }
    let answer: Value = serde_json::from_slice(&body).ok()?;
    let id = place.text(&answer)?;
    let sane = !id.is_empty() && id.chars().count() <= MAX_ID && !id.contains('\0');
    sane.then_some(id)
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::super::retryable;
    use super::*;

    fn meaning(statuses: &Statuses, status: u16) -> Option<SendError> {
        let status = StatusCode::from_u16(status).expect("a status");
        statuses.error_of(status, &HeaderMap::new())
    }

    #[test]
    fn timeouts_limits_and_server_errors_are_worth_another_try_and_other_errors_are_not() {
        let usual = Statuses::default();
        for taken in [200, 201, 202] {
            assert_eq!(meaning(&usual, taken), None, "{taken}");
        }
        let busy = retryable(ErrorCode::ProviderBusy);
        assert_eq!(meaning(&usual, 429), Some(busy));
        for again in [408, 500, 502, 503, 504] {
            let expected = retryable(ErrorCode::ProviderUnavailable);
            assert_eq!(meaning(&usual, again), Some(expected), "{again}");
        }
        for unauthorized in [401, 403, 407] {
            let expected = retryable(ErrorCode::ProviderUnauthorized);
            assert_eq!(meaning(&usual, unauthorized), Some(expected));
        }
        for refused in [301, 400, 404, 409, 422] {
            let expected = SendError::Permanent {
                code: ErrorCode::ProviderRefused,
            };
            assert_eq!(meaning(&usual, refused), Some(expected), "{refused}");
        }
    }

    #[test]
    fn the_configuration_overrules_it() {
        let statuses = Statuses {
            retryable: vec![409],
            permanent: vec![403, 500],
        };
        let again = meaning(&statuses, 409);
        assert_eq!(again, Some(retryable(ErrorCode::ProviderUnavailable)));
        for status in [403, 500] {
            let refused = meaning(&statuses, status);
            assert!(
                matches!(refused, Some(SendError::Permanent { .. })),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_an_hour_at_most() {
        let now = datetime!(2015-10-21 07:27:30 UTC);
        let wait = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().expect("a header"));
            retry_after(&headers, now).map(|wait| wait.as_secs())
        };
        assert_eq!(wait("7"), Some(7));
        assert_eq!(wait("Wed, 21 Oct 2015 07:28:00 GMT"), Some(30));
        assert_eq!(wait("Wed, 21 Oct 2015 07:27:00 GMT"), Some(0));
        assert_eq!(wait("99999999"), Some(3600));
        assert_eq!(wait("soon"), None);
    }
}
