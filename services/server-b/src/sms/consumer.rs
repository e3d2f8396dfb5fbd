//! `sms_outbound_queue` → `sms_messages`: what an [`Intake`](service_runtime::intake::Intake) makes of SMS.

use std::sync::Arc;
use std::time::Duration;

use lapin::Channel;
use lapin::message::Delivery;
use service_runtime::amqp::{MessageSpan, declare_queue};
use service_runtime::database::StoreError;
use service_runtime::intake::{DeadReason, Rows};
use sqlx::PgPool;
use time::OffsetDateTime;
use tokio::sync::Notify;
use wire_contract::specs;

use super::store::{self, ReceivedSms};
use super::usage::Usage;
use super::{delivery, metrics};

/// Rows of `sms_messages`.
#[derive(Debug)]
pub struct SmsRows {
    /// The database.
    pub pool: PgPool,
    /// Validity of an SMS that names none.
    pub validity: Duration,
    /// Told what users have used.
    pub usage: Usage,
    /// Notified when there are new rows.
    pub wake: Arc<Notify>,
}

impl Rows for SmsRows {
    type Row = ReceivedSms;
    type InHand = ();

    async fn declare(&self, channel: &Channel) -> anyhow::Result<()> {
        for queue in [specs::sms_outbound_dead(), specs::sms_outbound()] {
            declare_queue(channel, &queue).await?;
        }
        Ok(())
    }

    fn received(&self, deliveries: &[Delivery]) {
        metrics::RECEIVED.inc_by(deliveries.len() as u64);
    }

    fn read(&self, delivery: &Delivery, span: &MessageSpan) -> Result<ReceivedSms, DeadReason> {
        let mut sms = delivery::read(delivery)?;
        let age = OffsetDateTime::now_utc() - sms.envelope.submitted_at;
        // The clocks of A and B may differ by more than the queue takes.
        metrics::QUEUE_AGE.observe(age.as_seconds_f64().max(0.0));
        // What is done with the row follows from this.
        sms.trace = span.context().unwrap_or(sms.trace);
        Ok(sms)
    }

    async fn insert(&self, rows: &[&ReceivedSms]) -> Result<(), StoreError> {
        let stored = store::insert(&self.pool, rows, self.validity).await?;
        metrics::STORED.inc_by(stored.new);
        metrics::DUPLICATES.inc_by(rows.len() as u64 - stored.new);
        metrics::OVER_QUOTA.inc_by(stored.over_quota);
        metrics::CONFLICTS.inc_by(stored.conflicts);
        self.usage.stored(stored.usage, rows);
        self.wake.notify_one();
        Ok(())
    }

    fn dead_lettered(&self, reason: &'static str) {
        metrics::DEAD_LETTERED.with_label_values(&[reason]).inc();
    }
}
