//! Confirming publishers, as thin as lapin allows.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueuePurgeOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation};
use service_runtime::amqp::declare_queue;
use time::OffsetDateTime;
use tokio::task::JoinSet;
use uuid::Uuid;
use wire_contract::{
    Admission, CONTENT_TYPE_JSON, Encoding, KeyDigest, SMS_OUTBOUND_QUEUE, SmsEnvelope,
    encode_json, specs,
};

use crate::bare;
use crate::load::TEXT;
use crate::stats;

/// Confirms awaited at a time where messages are published in a row; the product's relay hands over as many.
const WINDOW: usize = 2_000;

/// A channel that confirms.
pub async fn channel(url: &str) -> Result<Channel> {
    let connection = bare::connect(url).await?;
    let channel = connection.create_channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    Ok(channel)
}

/// The same, with `sms_outbound_queue` there: server B declares it at its own pace.
async fn sms_channel(url: &str) -> Result<Channel> {
    let channel = channel(url).await?;
    for queue in [specs::sms_outbound_dead(), specs::sms_outbound()] {
        declare_queue(&channel, &queue).await?;
    }
    Ok(channel)
}

/// Empties `sms_outbound_queue`.
pub async fn purge_sms(url: &str) -> Result<()> {
    let channel = sms_channel(url).await?;
    channel
        .queue_purge(SMS_OUTBOUND_QUEUE.into(), QueuePurgeOptions::default())
        .await
        .context("purging")?;
    channel.close(200, "bye".into()).await?;
    Ok(())
}

/// An SMS like those that server A queues.
pub fn sms(user_id: i64) -> SmsEnvelope {
    SmsEnvelope {
        user_id,
        message_id: Uuid::now_v7(),
        to: "+14155550123".to_owned(),
        from: Some("ACME".to_owned()),
        body: TEXT.to_owned(),
        encoding: Encoding::Gsm7,
        segments: 1,
        submitted_at: OffsetDateTime::now_utc(),
        admission: Admission {
            epoch: 1,
            sequence: 1_000_000,
            cache_age_ms: 500,
        },
        expires_at: None,
        client_reference: None,
        key_digest: Some(KeyDigest::of("isk_bulk_user-1")),
        request_hash: None,
    }
}

/// Properties as the product sets them.
fn properties(event_type: &str, message_id: Uuid, persistent: bool) -> BasicProperties {
    let now = OffsetDateTime::now_utc().unix_timestamp();
    BasicProperties::default()
        .with_content_type(CONTENT_TYPE_JSON.into())
        .with_type(event_type.into())
        .with_message_id(message_id.to_string().into())
        .with_timestamp(u64::try_from(now).unwrap_or_default())
        .with_delivery_mode(if persistent { 2 } else { 1 })
        .with_headers(FieldTable::default())
}

async fn publish_sms(channel: &Channel, envelope: &SmsEnvelope) -> Result<()> {
    let mandatory = BasicPublishOptions {
        mandatory: true,
        immediate: false,
    };
    let properties = properties("sms.submitted", envelope.message_id, true);
    let body = encode_json(envelope);
    let confirm = channel
        .basic_publish(
            "".into(),
            SMS_OUTBOUND_QUEUE.into(),
            mandatory,
            &body,
            properties,
        )
        .await?;
    ensure!(
        matches!(confirm.await?, Confirmation::Ack(None)),
        "an SMS was not queued"
    );
    Ok(())
}

/// Publishes SMS to `sms_outbound_queue` for so long, each task its next when the last is confirmed; gives
/// their number, and SMS a second.
pub async fn sms_load(url: &str, in_flight: usize, lasts: Duration) -> Result<(u64, f64)> {
    let channel = sms_channel(url).await?;
    let began = Instant::now();
    let end = began + lasts;
    let mut tasks = JoinSet::new();
    for _ in 0..in_flight {
        let channel = channel.clone();
        tasks.spawn(async move {
            let mut sent = 0;
            while Instant::now() < end {
                publish_sms(&channel, &sms(1)).await?;
                sent += 1;
            }
            anyhow::Ok(sent)
        });
    }
    let mut sent = 0;
    while let Some(task) = tasks.join_next().await {
        sent += task??;
    }
    let rate = stats::number(sent) / began.elapsed().as_secs_f64();
    channel.close(200, "bye".into()).await?;
    Ok((sent, rate))
}

/// Puts so many SMS of users 1 to `users` into `sms_outbound_queue`.
pub async fn fill_sms(url: &str, count: u64, users: u64) -> Result<()> {
    let channel = sms_channel(url).await?;
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..WINDOW {
        let (channel, next) = (channel.clone(), Arc::clone(&next));
        tasks.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return anyhow::Ok(());
                }
                let user_id = i64::try_from(number % users + 1)?;
                publish_sms(&channel, &sms(user_id)).await?;
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task??;
    }
    channel.close(200, "bye".into()).await?;
    Ok(())
}

/// Publishes a transient message so many times to an exchange, with pipelined confirms.
pub async fn broadcast(
    channel: &Channel,
    exchange: &str,
    event_type: &str,
    body: &[u8],
    count: u64,
) -> Result<()> {
    let mut open = VecDeque::with_capacity(WINDOW);
    for _ in 0..count {
        let properties = properties(event_type, Uuid::now_v7(), false);
        let options = BasicPublishOptions::default();
        let confirm = channel
            .basic_publish(exchange.into(), "".into(), options, body, properties)
            .await?;
        open.push_back(confirm);
        if open.len() >= WINDOW
            && let Some(confirm) = open.pop_front()
        {
            confirm.await?;
        }
    }
    for confirm in open {
        confirm.await?;
    }
    Ok(())
}

/// Publishes one transient message that carries a number, and waits for its confirm.
pub async fn publish_tagged(
    channel: &Channel,
    exchange: &str,
    number: u32,
    body: &[u8],
) -> Result<()> {
    let properties =
        properties("tagged", Uuid::now_v7(), false).with_app_id(number.to_string().into());
    let options = BasicPublishOptions::default();
    channel
        .basic_publish(exchange.into(), "".into(), options, body, properties)
        .await?
        .await?;
    Ok(())
}
