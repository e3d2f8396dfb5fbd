//! Consumers that insert in batches as the product does, and do nothing else.

use std::time::Instant;

use anyhow::{Context as _, Result};
use lapin::Channel;
use lapin::options::BasicAckOptions;
use service_runtime::amqp::{consume, next_batch};
use service_runtime::intake::{BATCH, LINGER, PREFETCH};
use sqlx::PgPool;
use time::OffsetDateTime;
use user_service::references::{self, NewReference};
use wire_contract::{SMS_OUTBOUND_QUEUE, SmsEnvelope, USER_CREATED_QUEUE, UserCreated};

use crate::bare;
use crate::stats;

/// The table of [`sms`]: like the product's, with all its indexes.
pub const SMS_TABLE: &str = "DROP TABLE IF EXISTS bare_sms;
                             CREATE TABLE bare_sms (LIKE sms_messages INCLUDING ALL)";

/// Takes so many SMS from `sms_outbound_queue` into the table `bare_sms`; gives SMS a second, from the first delivery to
/// the last commit.
pub async fn sms(rabbitmq_url: &str, database_url: &str, count: u64) -> Result<f64> {
    let pool = PgPool::connect(database_url).await?;
    let channel = bare::connect(rabbitmq_url).await?.create_channel().await?;
    let mut consumer = consume(&channel, SMS_OUTBOUND_QUEUE, "", PREFETCH).await?;
    let (mut taken, mut began) = (0, None);
    while taken < count {
        let batch = next_batch(&mut consumer, BATCH, LINGER).await?;
        began.get_or_insert_with(Instant::now);
        let sms: Vec<SmsEnvelope> = batch
            .iter()
            .map(|delivery| serde_json::from_slice(&delivery.data))
            .collect::<Result<_, _>>()?;
        insert_sms(&pool, &sms).await?;
        taken += ack(&channel, &batch).await?;
    }
    rate(began, taken)
}

async fn insert_sms(pool: &PgPool, batch: &[SmsEnvelope]) -> Result<()> {
    fn column<'a, T>(batch: &'a [SmsEnvelope], value: impl Fn(&'a SmsEnvelope) -> T) -> Vec<T> {
        batch.iter().map(value).collect()
    }
    sqlx::query(
        "INSERT INTO bare_sms (message_id, user_id, recipient, sender, body, encoding, segments, submitted_at,
                               admission_epoch, admission_sequence, admission_cache_age_ms)
         SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::integer[],
                              $8::timestamptz[], $9::bigint[], $10::bigint[], $11::bigint[])
         ON CONFLICT (message_id) DO NOTHING",
    )
    .bind(column(batch, |it| it.message_id))
    .bind(column(batch, |it| it.user_id))
    .bind(column(batch, |it| it.to.as_str()))
    .bind(column(batch, |it| it.from.as_deref()))
    .bind(column(batch, |it| it.body.as_str()))
    .bind(column(batch, |it| it.encoding.as_str()))
    .bind(column(batch, |it| i32::from(it.segments)))
    .bind(column(batch, |it| it.submitted_at))
    .bind(column(batch, |it| it.admission.epoch))
    .bind(column(batch, |it| it.admission.sequence))
    .bind(column(batch, |it| {
        i64::try_from(it.admission.cache_age_ms).unwrap_or(i64::MAX)
    }))
    .execute(pool)
    .await?;
    Ok(())
}

/// Takes so many `UserCreated` into `auth_user_references` by user-service's own statement; gives events a second.
pub async fn user_created(rabbitmq_url: &str, database_url: &str, count: u64) -> Result<f64> {
    let pool = PgPool::connect(database_url).await?;
    let channel = bare::connect(rabbitmq_url).await?.create_channel().await?;
    let mut consumer = consume(&channel, USER_CREATED_QUEUE, "", PREFETCH).await?;
    let (mut taken, mut began) = (0, None);
    while taken < count {
        let batch = next_batch(&mut consumer, BATCH, LINGER).await?;
        began.get_or_insert_with(Instant::now);
        let rows: Vec<NewReference> = batch
            .iter()
            .map(|delivery| {
                let event: UserCreated = serde_json::from_slice(&delivery.data)?;
                Ok(NewReference {
                    user_id: event.user_id,
                    username: event.username,
                    email: event.email,
                    occurred_at: OffsetDateTime::UNIX_EPOCH,
                })
            })
            .collect::<Result<_, serde_json::Error>>()?;
        references::insert(&pool, &rows.iter().collect::<Vec<_>>()).await?;
        taken += ack(&channel, &batch).await?;
    }
    rate(began, taken)
}

async fn ack(channel: &Channel, batch: &[lapin::message::Delivery]) -> Result<u64> {
    if let Some(last) = batch.last() {
        let all = BasicAckOptions { multiple: true };
        channel.basic_ack(last.delivery_tag, all).await?;
    }
    Ok(batch.len() as u64)
}

fn rate(began: Option<Instant>, taken: u64) -> Result<f64> {
    let took = began.context("nothing was taken")?.elapsed();
    Ok(stats::number(taken) / took.as_secs_f64())
}
