//! A snapshot that is asked for until there is a proof.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::time::Instant;
use uuid::Uuid;
use wire_contract::SnapshotCause;

/// So many requests without a proof are worth an alarm.
const ALARM_AFTER: u32 = 5;
/// Pause after the first request before it is made again, doubled up to the last. By then server B has begun to answer:
/// it gathers requests for up to 4 s, and another server B, which a repetition may get to, does not know of them.
pub const FIRST_RETRY: Duration = Duration::from_secs(5);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// A source that failed is often followed by another, a full sync by that of the server B that takes over: for so long the
/// first request waits for it.
const AFTER_FAILURE: Duration = Duration::from_millis(500);

/// A need that has not been satisfied by a proof.
pub(super) struct Request {
    /// Of the message; lasts until server B has begun to answer, by which B tells a repetition.
    id: Option<Uuid>,
    cause: SnapshotCause,
    made: Instant,
    retry_at: Instant,
    backoff: Box<dyn Iterator<Item = Duration> + Send>,
    tries: u32,
    /// A snapshot has completed since it was last made.
    answered: bool,
}

impl Request {
    /// One that is due at once, or shortly after a failure.
    pub(super) fn new(cause: SnapshotCause) -> Self {
        let backoff = ExponentialBuilder::default()
            .with_min_delay(FIRST_RETRY)
            .with_max_delay(LAST_RETRY)
            .without_max_times()
            .with_jitter()
            .build();
        let now = Instant::now();
        let pause = match cause {
            SnapshotCause::Failed => AFTER_FAILURE,
            _ => Duration::ZERO,
        };
        Self {
            id: None,
            cause,
            made: now,
            retry_at: now + pause,
            backoff: Box::new(backoff),
            tries: 0,
            answered: false,
        }
    }

    /// The id to ask with now, if it is time to.
    pub(super) fn due(&mut self, cause: SnapshotCause) -> Option<Uuid> {
        let now = Instant::now();
        if self.retry_at > now {
            return None;
        }
        self.cause = cause;
        self.answered = false;
        self.tries += 1;
        self.retry_at = now + self.backoff.next().unwrap_or(LAST_RETRY);
        if self.tries >= ALARM_AFTER {
            tracing::error!(?cause, tries = self.tries, "snapshots do not help");
        }
        Some(*self.id.get_or_insert_with(Uuid::now_v7))
    }

    /// What it was last made for.
    pub(super) fn cause(&self) -> SnapshotCause {
        self.cause
    }

    /// Server B has begun to answer: what is asked for from now on is another snapshot.
    pub(super) fn begun(&mut self) {
        self.id = None;
    }

    /// A snapshot has completed; the first that does after a request tells its cause and how long it took.
    pub(super) fn answered(&mut self) -> Option<(SnapshotCause, Duration)> {
        let first = self.tries > 0 && !std::mem::replace(&mut self.answered, true);
        first.then(|| (self.cause, self.made.elapsed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_failure_the_first_request_waits_for_what_may_follow() {
        let mut request = Request::new(SnapshotCause::Failed);
        assert_eq!(request.due(SnapshotCause::Failed), None);
        assert_eq!(request.answered(), None, "nobody has asked");
        request.retry_at = Instant::now();
        assert!(request.due(SnapshotCause::Failed).is_some());
        assert!(request.answered().is_some());
        assert_eq!(request.answered(), None, "only the first is told of");
    }

    #[test]
    fn a_request_is_repeated_with_its_id_until_server_b_has_begun_and_then_is_another() {
        let mut request = Request::new(SnapshotCause::Gap);
        let first = request.due(SnapshotCause::Gap).expect("due at once");
        assert!(request.retry_at >= request.made + FIRST_RETRY);
        assert_eq!(request.due(SnapshotCause::Gap), None);
        request.retry_at = Instant::now();
        assert_eq!(request.due(SnapshotCause::Gap), Some(first));
        request.begun();
        request.retry_at = Instant::now();
        assert_ne!(request.due(SnapshotCause::Gap), Some(first));
    }
}
