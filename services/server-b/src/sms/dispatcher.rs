//! `sms_messages` rows → provider: claims due rows, hands each over, stores what became of it.
//!
//! At least once: a process that dies after the hand-over leaves the row to whoever finds its lease run
//! out, and the provider sees the same idempotency token again. Any number of server Bs work side by side.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::StreamExt;
use futures_util::stream;
use service_runtime::database;
use service_runtime::trace::TraceContext;
use sqlx::PgPool;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

use super::metrics;
use super::provider::{Accepted, Provider, SendError};
use super::store::{self, CLAIM_LIMIT, ClaimedSms, Outcome};

/// Claims in work at once: while one waits for its commit, another is handed over.
const WORKERS: usize = 4;
/// Hand-overs of one claim under way at once.
const CONCURRENT_SENDS: usize = 64;
/// Longest hand-over. Also shorter than the drain of a stopping process, which waits for those under way.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a claim holds its rows: longer than handing them all over at the slowest takes, or another
/// worker would send them a second time.
const LEASE: Duration = Duration::from_mins(1);
const _: () = assert!(
    SEND_TIMEOUT.as_secs() * (CLAIM_LIMIT.div_ceil(CONCURRENT_SENDS) as u64) < LEASE.as_secs() / 2
);
/// Finds what no wake-up tells of: retries, run-out leases, rows of another server B.
const POLL: Duration = Duration::from_secs(1);

/// Tries of one SMS; with the delays between them about three hours.
const MAX_ATTEMPTS: i32 = 20;
const FIRST_RETRY: Duration = Duration::from_secs(1);
const MAX_RETRY: Duration = Duration::from_mins(15);

/// Dispatches until `shutdown`, then finishes the hand-overs under way and puts back the rest.
///
/// `wake` is notified when there are new rows.
///
/// # Errors
/// Only if a worker panicked: everything else is retried.
pub async fn run(
    pool: PgPool,
    provider: Arc<dyn Provider>,
    wake: Arc<Notify>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let dispatcher = Arc::new(Dispatcher {
        pool,
        provider,
        wake,
        shutdown,
    });
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        workers.spawn(Arc::clone(&dispatcher).work());
    }
    while let Some(ended) = workers.join_next().await {
        ended.context("an SMS dispatch worker panicked")?;
    }
    Ok(())
}

struct Dispatcher {
    pool: PgPool,
    provider: Arc<dyn Provider>,
    wake: Arc<Notify>,
    shutdown: CancellationToken,
}

impl Dispatcher {
    async fn work(self: Arc<Self>) {
        let mut pauses = database::retry_pauses();
        while !self.shutdown.is_cancelled() {
            match self.dispatch_batch().await {
                // There may be more than one worker can take.
                Ok(CLAIM_LIMIT) => self.wake.notify_one(),
                Ok(_) => self.wait_for_work().await,
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "cannot claim SMS to dispatch");
                    self.pause(pauses.next()).await;
                    continue;
                }
            }
            pauses = database::retry_pauses();
        }
    }

    /// Claims, hands over and stores one batch; returns the number of rows claimed.
    async fn dispatch_batch(&self) -> sqlx::Result<usize> {
        let claimed = store::claim(&self.pool, LEASE).await?;
        let count = claimed.len();
        let due = reject(claimed);
        let hand_overs = stream::iter(due).map(|claimed| self.hand_over(claimed));
        // In chunks as they come: a slow hand-over does not hold back the outcome of others.
        let mut outcomes = std::pin::pin!(
            hand_overs
                .buffer_unordered(CONCURRENT_SENDS)
                .ready_chunks(CLAIM_LIMIT)
        );
        while let Some(chunk) = outcomes.next().await {
            self.store(&chunk).await;
        }
        Ok(count)
    }

    async fn hand_over(&self, claimed: ClaimedSms) -> Outcome {
        if self.shutdown.is_cancelled() {
            return put_back(&claimed);
        }
        let took = metrics::DISPATCH_DURATION
            .with_label_values(&[self.provider.name()])
            .start_timer();
        let span = hand_over_span(&claimed, self.provider.name());
        let hand_over = self.provider.send(&claimed.sms).instrument(span.clone());
        let answer = tokio::time::timeout(SEND_TIMEOUT, hand_over)
            .await
            .unwrap_or(Err(SendError::Retryable {
                code: "provider_timeout",
            }));
        drop(took);
        if let Err(SendError::Retryable { code } | SendError::Permanent { code }) = &answer {
            span.record("error.type", code);
            span.record("otel.status_code", "ERROR");
        }
        outcome_of(&claimed, self.provider.name(), answer)
    }

    /// Stores outcomes, for as long as it takes. A process told to stop gives up instead: the rows'
    /// leases run out, and they are handed over again.
    async fn store(&self, outcomes: &[Outcome]) {
        let mut pauses = database::retry_pauses();
        loop {
            let error = match store::finish(&self.pool, outcomes).await {
                Ok(stored) => return count(outcomes, stored),
                Err(error) => error.to_string(),
            };
            let count = outcomes.len();
            if self.shutdown.is_cancelled() {
                tracing::warn!(error, count, "outcomes of SMS not stored");
                return;
            }
            tracing::warn!(error, count, "cannot store outcomes of SMS, trying again");
            self.pause(pauses.next()).await;
        }
    }

    async fn wait_for_work(&self) {
        tokio::select! {
            () = self.shutdown.cancelled() => {}
            () = self.wake.notified() => {}
            () = tokio::time::sleep(POLL) => {}
        }
    }

    async fn pause(&self, pause: Option<Duration>) {
        tokio::select! {
            () = self.shutdown.cancelled() => {}
            () = tokio::time::sleep(pause.unwrap_or_default()) => {}
        }
    }
}

/// In the trace of the SMS. Disabled for one that has none: nobody would look for it.
fn hand_over_span(claimed: &ClaimedSms, provider: &'static str) -> Span {
    let trace = TraceContext::received(claimed.traceparent.clone(), claimed.tracestate.clone());
    if trace.traceparent.is_none() {
        return Span::none();
    }
    let span = tracing::error_span!(
        "send SMS",
        otel.kind = "client",
        otel.status_code = tracing::field::Empty,
        error.type = tracing::field::Empty,
        messaging.message.id = %claimed.sms.message_id,
        sms.provider = provider,
        sms.attempt = claimed.attempts,
    );
    trace.set_parent_of(&span);
    span
}

/// Counts the rows that the claim rejected, and returns the others.
fn reject(claimed: Vec<ClaimedSms>) -> Vec<ClaimedSms> {
    let (rejected, due): (Vec<_>, Vec<_>) = claimed.into_iter().partition(|sms| sms.rejected);
    if !rejected.is_empty() {
        metrics::DISPATCHED
            .with_label_values(&["none", "rejected"])
            .inc_by(rejected.len() as u64);
        let late = rejected.iter().filter(|sms| sms.admitted_late).count();
        metrics::ADMITTED_LATE.inc_by(late as u64);
    }
    for ClaimedSms { sms, .. } in rejected {
        tracing::info!(message_id = %sms.message_id, user_id = sms.user_id, "SMS rejected: its user may not send any more");
    }
    due
}

fn put_back(claimed: &ClaimedSms) -> Outcome {
    Outcome {
        message_id: claimed.sms.message_id,
        attempts: claimed.attempts,
        status: "queued",
        provider: None,
        provider_message_id: None,
        error_code: None,
        retry_after: Duration::ZERO,
    }
}

fn outcome_of(
    claimed: &ClaimedSms,
    provider: &'static str,
    answer: Result<Accepted, SendError>,
) -> Outcome {
    let untried = Outcome {
        provider: Some(provider),
        ..put_back(claimed)
    };
    match answer {
        Ok(Accepted {
            provider_message_id,
        }) => Outcome {
            status: "sent",
            provider_message_id: Some(provider_message_id),
            ..untried
        },
        Err(SendError::Retryable { code }) if claimed.attempts < MAX_ATTEMPTS => Outcome {
            error_code: Some(code),
            retry_after: retry_after(claimed.attempts, rand::random()),
            ..untried
        },
        Err(SendError::Retryable { code } | SendError::Permanent { code }) => Outcome {
            status: "failed",
            error_code: Some(code),
            ..untried
        },
    }
}

/// Doubles with each try. `jitter`, from 0 to 1, spreads the tries of a burst over the second half of
/// the delay.
fn retry_after(attempts: i32, jitter: f64) -> Duration {
    let doublings = u32::try_from(attempts - 1).unwrap_or(0).min(16);
    let delay = (FIRST_RETRY * 2_u32.pow(doublings)).min(MAX_RETRY);
    delay.mul_f64(0.5 + jitter / 2.0)
}

fn count(outcomes: &[Outcome], stored: u64) {
    for outcome in outcomes {
        metrics::DISPATCHED
            .with_label_values(&[outcome.provider.unwrap_or("none"), metric_label(outcome)])
            .inc();
    }
    let lost = outcomes.len() as u64 - stored;
    if lost > 0 {
        tracing::warn!(lost, "outcomes of SMS came after their lease had run out");
    }
}

fn metric_label(outcome: &Outcome) -> &'static str {
    match (outcome.status, outcome.provider) {
        ("queued", None) => "put_back",
        ("queued", Some(_)) => "retry",
        (status, _) => status,
    }
}

#[cfg(test)]
#[path = "dispatcher_tests.rs"]
mod tests;
