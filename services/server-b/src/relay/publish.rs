//! Publishes numbered rows and deletes them as far as the broker has confirmed them without a hole.

use anyhow::Context;
use lapin::types::AMQPValue;
use service_runtime::amqp::{Message, MessageSpan, PublishError, send_span};
use service_runtime::trace::TraceContext;
use sqlx::types::Json;
use time::OffsetDateTime;
use tracing::Instrument;
use wire_contract::{
    Bookmark, CONFIG_EVENTS_EXCHANGE, ConfigEvent, DIGEST_VERSION, HEADER_COMMITTED_AT,
    HEADER_PUBLISHED_AT, HEADER_REVOKES, Position, UserDeleted, UserUpdated,
};

use super::numbering::{self, OutboxRow, RelayState};
use super::{Relay, metrics};
use crate::wire_image::KeyForm;

/// Publishes in order with pipelined confirms.
///
/// # Errors
/// When not all were confirmed: what was, up to the first that was not, is deleted all the same.
pub(super) async fn publish(relay: &Relay, rows: &[OutboxRow]) -> anyhow::Result<()> {
    let (mut messages, mut spans) = (
        Vec::with_capacity(rows.len()),
        Vec::with_capacity(rows.len()),
    );
    for row in rows {
        let mut message = message(relay, row)?;
        // Plain SQL brings no trace: the change's journey begins here then, if the sampler wants it.
        let change = row.trace().span_context();
        let older = row.superseded_traces.iter().map(TraceContext::span_context);
        spans.push(MessageSpan::send_for(&mut message, &change, true, older));
        messages.push(message);
    }
    let batch = send_span(CONFIG_EVENTS_EXCHANGE, &spans);
    let results = deliver(relay, messages, spans).instrument(batch).await;
    let confirmed = confirmed_prefix(&results);
    metrics::published(confirmed, rows.len() - confirmed);
    numbering::delete(&relay.pool, &rows[..confirmed]).await?;
    match results.get(confirmed) {
        Some(Err(error)) => Err(*error).context("configuration events were not confirmed"),
        _ => Ok(()),
    }
}

async fn deliver(
    relay: &Relay,
    messages: Vec<Message>,
    spans: Vec<MessageSpan>,
) -> Vec<Result<(), PublishError>> {
    let mut confirms = Vec::with_capacity(messages.len());
    for message in messages {
        confirms.push(relay.publisher.hand_over(message).await);
    }
    let mut results = Vec::with_capacity(confirms.len());
    for (confirm, mut span) in confirms.into_iter().zip(spans) {
        let result = match confirm {
            Ok(confirm) => confirm.confirmed().await,
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            span.fail(error.label());
        }
        results.push(result);
    }
    results
}

/// How many, from the first, were confirmed without a hole. What is behind a hole is published again, and replicas drop it.
#[must_use]
pub fn confirmed_prefix<E>(results: &[Result<(), E>]) -> usize {
    results.iter().take_while(|result| result.is_ok()).count()
}

fn message(relay: &Relay, row: &OutboxRow) -> anyhow::Result<Message> {
    let form = KeyForm::Opened(&relay.keys);
    let event = match (&row.new_image, &row.old_image) {
        (Some(Json(user)), _) => ConfigEvent::UserUpdated(UserUpdated {
            user: user.record(form)?,
            epoch: row.epoch,
            sequence: Some(row.sequence),
            sync_id: None,
            as_of: None,
            occurred_at: row.occurred_at,
        }),
        (None, old) => ConfigEvent::UserDeleted(UserDeleted {
            user_id: row.user_id,
            api_key: old.as_ref().and_then(|Json(user)| user.api_key(form)),
            version: row.version,
            epoch: row.epoch,
            sequence: row.sequence,
            occurred_at: row.occurred_at,
        }),
    };
    let mut message =
        Message::to_fanout(CONFIG_EVENTS_EXCHANGE, event.event_type(), event.encode());
    message.headers = headers(row, OffsetDateTime::now_utc());
    Ok(message)
}

/// By which replicas tell how far they are behind.
fn headers(row: &OutboxRow, now: OffsetDateTime) -> Vec<(&'static str, AMQPValue)> {
    let mut headers = vec![
        (
            HEADER_COMMITTED_AT,
            AMQPValue::LongLongInt(micros(row.committed_at)),
        ),
        (HEADER_PUBLISHED_AT, AMQPValue::LongLongInt(micros(now))),
    ];
    let (old, new) = (row.old_image.as_deref(), row.new_image.as_deref());
    if old.is_some_and(|old| old.loses_a_right(new, micros(row.occurred_at))) {
        headers.push((HEADER_REVOKES, AMQPValue::Boolean(true)));
    }
    headers
}

/// Since the Unix epoch.
fn micros(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos() / 1_000).unwrap_or(i64::MAX)
}

/// A digest version that no replica knows: unprovable, not wrong.
const NOT_COMPARABLE: u16 = 0;

/// What the users amount to at `state`; in the middle of a backlog nothing that could be compared.
#[must_use]
pub fn bookmark_of(state: &RelayState, in_backlog: bool) -> Bookmark {
    Bookmark {
        position: Position {
            epoch: state.epoch,
            sequence: state.sequence,
        },
        count: u64::try_from(state.user_count).unwrap_or(0),
        digest: state.digest,
        digest_version: if in_backlog || state.digest_version != DIGEST_VERSION {
            NOT_COMPARABLE
        } else {
            DIGEST_VERSION
        },
        audited_at: state.audited_at,
    }
}

/// Tells replicas. Not confirmed is not an error: another follows.
pub(super) async fn bookmark(
    relay: &Relay,
    state: &RelayState,
    in_backlog: bool,
) -> anyhow::Result<()> {
    let event = ConfigEvent::Bookmark(bookmark_of(state, in_backlog));
    let message = Message::to_fanout(CONFIG_EVENTS_EXCHANGE, event.event_type(), event.encode());
    match relay.publisher.publish(message).await {
        Ok(()) => numbering::note_bookmark(&relay.pool).await,
        Err(error) => {
            tracing::debug!(%error, "bookmark not confirmed");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_behind_the_first_unconfirmed_one_are_kept() {
        let lost = Err(PublishError::Unconfirmed);
        assert_eq!(confirmed_prefix(&[Ok(()), Ok(()), lost, Ok(())]), 2);
        assert_eq!(confirmed_prefix(&[lost, Ok(())]), 0);
        assert_eq!(confirmed_prefix::<PublishError>(&[Ok(())]), 1);
    }
}
