//! `sms_messages` rows → provider: claims due rows, hands each over, stores what became of it.
//!
//! At least once: a process that dies after the hand-over leaves the row to whoever finds its lease run
//! out, and the provider sees the same idempotency token again. Any number of server Bs work side by side.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::StreamExt;
use futures_util::stream;
use service_runtime::database;
use service_runtime::trace::TraceContext;
use sqlx::PgPool;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

use super::claims::{self, CLAIM_LIMIT, ClaimedSms, Outcome};
use super::codes::ErrorCode;
use super::provider::{Accepted, Provider, SendError};
use super::providers::{MAX_TIMEOUT, Providers};
use super::routing::Route;
use super::{metrics, receipts, retry};

/// Workers that claim, and outcomes of batches that are stored, at once.
const WORKERS: usize = 4;
/// Longest hand-over, whatever the provider does.
const SEND_TIMEOUT: Duration = MAX_TIMEOUT.saturating_add(Duration::from_secs(2));
/// How long a claim holds its rows.
const LEASE: Duration = Duration::from_mins(1);
/// After so much of the lease no hand-over begins: it could end when another worker has the row, and sends it again.
const BEGIN_WITHIN: Duration = Duration::from_secs(30);
const _: () = assert!(BEGIN_WITHIN.as_secs() + SEND_TIMEOUT.as_secs() < LEASE.as_secs());
/// How long a stopping process waits for the hand-overs under way: shorter than its drain.
const LAST_SENDS: Duration = Duration::from_secs(5);
/// After which a row is due again for which its provider had no room. Twice as long each time, so that many rows behind a slow
/// provider are not claimed all the time.
const NO_ROOM: Duration = Duration::from_secs(1);
/// How often it doubles.
const NO_ROOM_DOUBLINGS: u32 = 5;
/// Finds what no wake-up tells of: retries, run-out leases, rows of another server B.
const POLL: Duration = Duration::from_secs(1);

/// Dispatches until `shutdown`, then finishes the hand-overs under way and puts back the rest.
///
/// `wake` is notified when there are new rows.
///
/// # Errors
/// Only if a worker panicked: everything else is retried.
pub async fn run(
    pool: PgPool,
    providers: Arc<Providers>,
    wake: Arc<Notify>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let dispatcher = Arc::new(Dispatcher {
        pool,
        providers,
        wake,
        storing: Semaphore::new(WORKERS),
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

/// Of a row in hand.
type Place = OwnedSemaphorePermit;

/// A panic goes on: the process must not look alive.
fn went_well(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        std::panic::resume_unwind(error.into_panic());
    }
}

struct Dispatcher {
    pool: PgPool,
    providers: Arc<Providers>,
    wake: Arc<Notify>,
    /// Leaves connections of the pool to others.
    storing: Semaphore,
    shutdown: CancellationToken,
}

impl Dispatcher {
    /// Claims while there is room, and hands each batch over in a task of its own.
    async fn work(self: Arc<Self>) {
        let mut pauses = database::retry_pauses();
        let room = Arc::new(Semaphore::new(self.in_hand()));
        let mut batches = JoinSet::new();
        while !self.shutdown.is_cancelled() {
            let place = tokio::select! {
                () = self.shutdown.cancelled() => break,
                Some(ended) = batches.join_next() => {
                    went_well(ended);
                    continue;
                }
                place = Arc::clone(&room).acquire_many_owned(CLAIM_LIMIT) => place,
            };
            // Nobody closes it.
            let Ok(mut place) = place else { break };
            let begin_until = Instant::now() + BEGIN_WITHIN;
            let claimed = match claims::claim(&self.pool, LEASE).await {
                Ok(claimed) => claimed,
                Err(error) => {
                    let error = error.to_string();
                    tracing::warn!(error, "cannot claim SMS to dispatch");
                    self.pause(pauses.next()).await;
                    continue;
                }
            };
            pauses = database::retry_pauses();
            let count = claimed.len();
            // No more than there are places.
            let rows = claimed
                .into_iter()
                .filter_map(|it| Some((it, place.split(1)?)));
            let rows: Vec<_> = rows.collect();
            if count > 0 {
                batches.spawn(Arc::clone(&self).dispatch(rows, begin_until));
            }
            drop(place);
            if count == CLAIM_LIMIT as usize {
                // There may be more than one worker can take.
                self.wake.notify_one();
            } else {
                self.wait_for_work().await;
            }
        }
        while let Some(ended) = batches.join_next().await {
            went_well(ended);
        }
    }

    /// Rows that one worker has in hand at most: what providers may hold, and two claims. So one that hangs holds its own SMS,
    /// and leaves room to claim those of others.
    fn in_hand(&self) -> usize {
        2 * CLAIM_LIMIT as usize + self.providers.max_in_flight.div_ceil(WORKERS)
    }

    /// Hands over and stores one batch.
    async fn dispatch(self: Arc<Self>, rows: Vec<(ClaimedSms, Place)>, begin_until: Instant) {
        let (claimed, mut places): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        let due = count_claimed(claimed);
        // What is at its end leaves its place.
        places.truncate(due.len());
        let hand_overs = stream::iter(due.into_iter().zip(places)).map(|(claimed, place)| {
            let hand_over = self.hand_over(claimed, begin_until);
            async move { Some((hand_over.await?, place)) }
        });
        // All at once, since each provider says how many it takes. In chunks as they come: a slow hand-over does not hold back
        // the outcome of others.
        let outcomes = hand_overs.buffer_unordered(CLAIM_LIMIT as usize);
        let known = outcomes.filter_map(std::future::ready);
        let mut chunks = std::pin::pin!(known.ready_chunks(CLAIM_LIMIT as usize));
        while let Some(chunk) = chunks.next().await {
            let (outcomes, _places): (Vec<_>, Vec<_>) = chunk.into_iter().unzip();
            self.store(&outcomes).await;
        }
    }

    /// `None` if nobody knows what came of it: then the lease runs out, and the same provider is asked again.
    async fn hand_over(&self, claimed: ClaimedSms, begin_until: Instant) -> Option<Outcome> {
        if self.shutdown.is_cancelled() || Instant::now() > begin_until {
            return Some(put_back(&claimed, Duration::ZERO));
        }
        let Some(route) = self.providers.routes.find(&claimed.sms.recipient) else {
            return Some(no_route(&claimed));
        };
        let provider = route.turn(failures(&claimed));
        let answer = tokio::select! {
            answer = ask(provider.as_ref(), &claimed) => answer,
            () = self.given_up() => return None,
        };
        Some(outcome_of(&claimed, route, answer, rand::random()))
    }

    /// When a stopping process waits no longer.
    async fn given_up(&self) {
        self.shutdown.cancelled().await;
        tokio::time::sleep(LAST_SENDS).await;
    }

    /// Stores outcomes, for as long as it takes. A process told to stop gives up instead: the rows'
    /// leases run out, and they are handed over again.
    async fn store(&self, outcomes: &[Outcome]) {
        let mut pauses = database::retry_pauses();
        loop {
            let turn = self.storing.acquire().await;
            let stored = claims::finish(&self.pool, outcomes).await;
            drop(turn);
            let error = match stored {
                Ok(stored) => {
                    count(outcomes, stored);
                    return self.settle_receipts(outcomes).await;
                }
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

    /// Of SMS that were delivered before it was stored that they had been sent.
    async fn settle_receipts(&self, outcomes: &[Outcome]) {
        let reported = |outcome: &Outcome| {
            let provider = outcome.provider.as_ref();
            provider.is_some_and(|name| self.providers.receipts.contains_key(name))
        };
        let taken: Vec<(&str, &str)> = outcomes
            .iter()
            .filter(|outcome| reported(outcome))
            .filter_map(|outcome| {
                let id = outcome.provider_message_id.as_deref()?;
                Some((outcome.provider.as_deref()?, id))
            })
            .collect();
        if let Err(error) = receipts::settle(&self.pool, &taken).await {
            // Within a minute they are looked at again.
            let error = error.to_string();
            tracing::warn!(error, "early delivery receipts not settled yet");
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

/// Asks a provider, within the limit of time.
async fn ask(provider: &dyn Provider, claimed: &ClaimedSms) -> Result<Accepted, SendError> {
    let took = metrics::DISPATCH_DURATION
        .with_label_values(&[provider.name()])
        .start_timer();
    let span = hand_over_span(claimed, provider.name());
    let hand_over = provider.send(&claimed.sms).instrument(span.clone());
    let answer = tokio::time::timeout(SEND_TIMEOUT, hand_over)
        .await
        .unwrap_or(Err(SendError::Retryable {
            code: ErrorCode::ProviderTimeout,
            retry_after: None,
        }));
    if let Err(error) = &answer {
        let Some(code) = error.code() else {
            // It was not asked.
            took.stop_and_discard();
            return answer;
        };
        span.record("error.type", code.as_str());
        span.record("otel.status_code", "ERROR");
    }
    took.observe_duration();
    answer
}

/// In the trace of the SMS. Disabled for one that has none: nobody would look for it.
fn hand_over_span(claimed: &ClaimedSms, provider: &str) -> Span {
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

/// Counts what the claim found, and returns the rows to hand over.
fn count_claimed(claimed: Vec<ClaimedSms>) -> Vec<ClaimedSms> {
    let (due, ended): (Vec<_>, Vec<_>) = claimed
        .into_iter()
        .partition(|claimed| claimed.status == "sending");
    let again = due.iter().filter(|claimed| claimed.again).count();
    metrics::HANDED_OVER_AGAIN
        .with_label_values(&[metrics::AGAIN_LEASE])
        .inc_by(again as u64);
    let late = ended.iter().filter(|claimed| claimed.admitted_late).count();
    metrics::ADMITTED_LATE.inc_by(late as u64);
    for ClaimedSms { sms, status, .. } in ended {
        metrics::DISPATCHED
            .with_label_values(&["none", &status])
            .inc();
        tracing::info!(message_id = %sms.message_id, user_id = sms.user_id, status, "SMS not handed over");
    }
    due
}

fn failures(claimed: &ClaimedSms) -> usize {
    usize::try_from(claimed.failures).unwrap_or(0)
}

fn put_back(claimed: &ClaimedSms, retry_after: Duration) -> Outcome {
    Outcome {
        message_id: claimed.sms.message_id,
        attempts: claimed.attempts,
        // It stays known that nobody knows what came of it.
        status: if claimed.again { "sending" } else { "queued" },
        provider: None,
        provider_message_id: None,
        error_code: None,
        retry_after,
    }
}

/// For how long a row is left alone whose provider has no room; `jitter` is from 0 to 1.
fn no_room(claimed: &ClaimedSms, jitter: f64) -> Duration {
    // Claims that ended neither with this one nor in a failure.
    let before = claimed.attempts - claimed.failures - 1;
    let doublings = u32::try_from(before).unwrap_or(0).min(NO_ROOM_DOUBLINGS);
    (NO_ROOM * 2_u32.pow(doublings)).mul_f64(0.5 + jitter)
}

fn no_route(claimed: &ClaimedSms) -> Outcome {
    Outcome {
        status: "failed",
        error_code: Some(ErrorCode::NoRoute),
        ..put_back(claimed, Duration::ZERO)
    }
}

/// What an answer means for the row; `jitter` is from 0 to 1.
fn outcome_of(
    claimed: &ClaimedSms,
    route: &Route,
    answer: Result<Accepted, SendError>,
    jitter: f64,
) -> Outcome {
    let failures = failures(claimed);
    let asked = Outcome {
        provider: Some(route.turn(failures).name().to_owned()),
        ..put_back(claimed, Duration::ZERO)
    };
    match answer {
        Ok(Accepted {
            provider_message_id,
        }) => Outcome {
            status: "sent",
            provider_message_id,
            ..asked
        },
        Err(SendError::Full) => put_back(claimed, no_room(claimed, jitter)),
        Err(SendError::Retryable { code, retry_after }) if failures + 1 < retry::MAX_FAILURES => {
            Outcome {
                status: "queued",
                error_code: Some(code),
                retry_after: retry::delay(route, failures, code, retry_after, jitter),
                ..asked
            }
        }
        // At once: the SMS has waited for nothing yet.
        Err(SendError::Permanent { code })
            if route.fall_over_when_refused && route.has_next(failures) =>
        {
            Outcome {
                status: "queued",
                error_code: Some(code),
                ..asked
            }
        }
        Err(SendError::Retryable { code, .. } | SendError::Permanent { code }) => Outcome {
            status: "failed",
            error_code: Some(code),
            ..asked
        },
    }
}

fn count(outcomes: &[Outcome], stored: u64) {
    for outcome in outcomes {
        metrics::DISPATCHED
            .with_label_values(&[
                outcome.provider.as_deref().unwrap_or("none"),
                metric_label(outcome),
            ])
            .inc();
        if let (&"queued", Some(code)) = (&outcome.status, outcome.error_code) {
            metrics::RETRIES.with_label_values(&[code.as_str()]).inc();
            if code.is_ambiguous() {
                let reason = metrics::AGAIN_AMBIGUOUS;
                metrics::HANDED_OVER_AGAIN
                    .with_label_values(&[reason])
                    .inc();
            }
        }
    }
    let lost = outcomes.len() as u64 - stored;
    metrics::LATE_OUTCOMES.inc_by(lost);
    if lost > 0 {
        tracing::warn!(lost, "outcomes of SMS came after their lease had run out");
    }
}

fn metric_label(outcome: &Outcome) -> &'static str {
    match (outcome.status, &outcome.provider) {
        ("queued" | "sending", None) => "put_back",
        ("queued", Some(_)) => "retry",
        (status, _) => status,
    }
}

#[cfg(test)]
#[path = "dispatcher_tests.rs"]
mod tests;
