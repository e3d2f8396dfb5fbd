//! The queue of `UserCreated` → `auth_user_references`: what an [`Intake`](service_runtime::intake::Intake) makes of events.

mod event;
pub mod metrics;

use lapin::Channel;
use lapin::message::Delivery;
use service_runtime::amqp::MessageSpan;
use service_runtime::database::StoreError;
use service_runtime::intake::{DeadReason, Rows};
use sqlx::PgPool;

pub use event::read;

use crate::references::{self, NewReference};
use crate::topology::{self, QueueArgs};

/// Rows of `auth_user_references`.
#[derive(Debug)]
pub struct ReferenceRows {
    /// Queues, exchange, binding.
    pub names: QueueArgs,
    /// The database. Tables that are yet to be made are waited for like a database that is down.
    pub pool: PgPool,
}

impl Rows for ReferenceRows {
    type Row = NewReference;
    type InHand = metrics::InHand;

    async fn declare(&self, channel: &Channel) -> anyhow::Result<()> {
        topology::declare(channel, &self.names).await
    }

    fn received(&self, deliveries: &[Delivery]) -> metrics::InHand {
        let redelivered = deliveries.iter().filter(|it| it.redelivered).count();
        metrics::RECEIVED.inc_by(deliveries.len() as u64);
        metrics::REDELIVERED.inc_by(redelivered as u64);
        metrics::InHand::begin()
    }

    /// What the body says of its type counts, not the AMQP property, which the requirement does not name.
    fn read(&self, delivery: &Delivery, _: &MessageSpan) -> Result<NewReference, DeadReason> {
        read(&delivery.data)
    }

    async fn insert(&self, rows: &[&NewReference]) -> Result<(), StoreError> {
        let stored = references::insert(&self.pool, rows).await?;
        metrics::CREATED.inc_by(stored.new);
        metrics::DUPLICATES.inc_by(rows.len() as u64 - stored.new);
        if let [first, ..] = stored.conflicts.as_slice() {
            metrics::CONFLICTS.inc_by(stored.conflicts.len() as u64);
            tracing::warn!(
                conflicts = stored.conflicts.len(),
                first_user_id = first,
                "events say something else of users than what is stored, which stays"
            );
        }
        Ok(())
    }

    fn dead_lettered(&self, reason: &'static str) {
        metrics::DEAD_LETTERED.with_label_values(&[reason]).inc();
    }
}
