//! `sms_outbound_queue.dead`, as an operator looks through it.
//!
//! Letters are taken and not acknowledged, so that each is met once; what is not settled goes back when the channel
//! closes, and also when this process dies.

use anyhow::{Context, ensure};
use lapin::message::{BasicGetMessage, Delivery};
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Confirmation, Connection};
use serde_json::{Map, Value};
use service_runtime::amqp::{Connector, declare_queue, event_type, give_back, header_text};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use wire_contract::{
    HEADER_DEAD_REASON, HEADER_DEAD_SOURCE, SMS_OUTBOUND_DEAD, SMS_OUTBOUND_QUEUE, specs,
};

/// The broker's own record of why it moved a message; it refuses to take part of it back.
const HEADER_DEATHS: &str = "x-death";

/// What becomes of a letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Back to the queue that it came from.
    Requeue,
    /// Deleted.
    Purge,
}

/// The queue, open for one walk through what it held at the beginning.
pub struct DeadQueue {
    connection: Connection,
    channel: Channel,
    total: u32,
    met: u32,
    settled: u32,
}

impl DeadQueue {
    /// Connects; the queue is declared if it is not there.
    pub async fn open(connector: &Connector) -> anyhow::Result<Self> {
        let connector = connector.clone().for_any_message();
        let connection = connector.connect("dead letters command").await?;
        let channel = connection.create_channel().await?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        let total = declare_queue(&channel, &specs::sms_outbound_dead()).await?;
        Ok(Self {
            connection,
            channel,
            total,
            met: 0,
            settled: 0,
        })
    }

    /// Letters at the beginning.
    pub fn total(&self) -> u32 {
        self.total
    }

    /// The next one; `None` when all that were there at the beginning have been met, so that what is set aside again
    /// is not requeued again.
    pub async fn next(&mut self) -> anyhow::Result<Option<DeadLetter>> {
        if self.met == self.total {
            return Ok(None);
        }
        let got = self
            .channel
            .basic_get(SMS_OUTBOUND_DEAD.into(), BasicGetOptions::default())
            .await
            .with_context(|| format!("cannot read {SMS_OUTBOUND_DEAD}"))?;
        if let Some(BasicGetMessage { delivery, .. }) = got {
            self.met += 1;
            Ok(Some(DeadLetter(delivery)))
        } else {
            // Another command has the rest in hand.
            self.total = self.met;
            Ok(None)
        }
    }

    /// Settles a letter: it is deleted, after it has been confirmed elsewhere if it is to be requeued.
    pub async fn settle(&mut self, letter: DeadLetter, fate: Fate) -> anyhow::Result<()> {
        if fate == Fate::Requeue {
            self.requeue(&letter).await?;
        }
        letter
            .0
            .ack(BasicAckOptions::default())
            .await
            .context("cannot delete a dead letter")?;
        self.settled += 1;
        Ok(())
    }

    async fn requeue(&self, letter: &DeadLetter) -> anyhow::Result<()> {
        let source = letter.source();
        ensure!(
            source == SMS_OUTBOUND_QUEUE,
            "dead letter {} says that it came from {source}, which is not {SMS_OUTBOUND_QUEUE}",
            letter.message_id()
        );
        let delivery = &letter.0;
        let mandatory = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let properties = (delivery.properties.clone()).with_headers(letter.original_headers());
        let confirmation = self
            .channel
            .basic_publish(
                "".into(),
                source.into(),
                mandatory,
                &delivery.data,
                properties,
            )
            .await?
            .await?;
        ensure!(
            matches!(confirmation, Confirmation::Ack(None)),
            "{SMS_OUTBOUND_QUEUE} did not take dead letter {}: does the queue exist?",
            letter.message_id()
        );
        Ok(())
    }

    /// Gives back what was not settled, for the next command to meet.
    pub async fn close(self) -> anyhow::Result<()> {
        let left = self.total - self.settled;
        give_back(&self.connection, &self.channel, SMS_OUTBOUND_DEAD, left).await
    }
}

/// A message that was set aside.
pub struct DeadLetter(Delivery);

impl DeadLetter {
    /// Property `message_id`; empty if it has none.
    pub fn message_id(&self) -> String {
        let id = self.0.properties.message_id().as_ref();
        id.map(ToString::to_string).unwrap_or_default()
    }

    /// Property `type`.
    pub fn event_type(&self) -> String {
        event_type(&self.0).to_owned()
    }

    /// When it was set aside (RFC 3339), to the second.
    pub fn dead_since(&self) -> Option<String> {
        let seconds = i64::try_from((*self.0.properties.timestamp())?).ok()?;
        let at = OffsetDateTime::from_unix_timestamp(seconds).ok()?;
        at.format(&Rfc3339).ok()
    }

    /// Why.
    pub fn reason(&self) -> Option<String> {
        header_text(&self.0, HEADER_DEAD_REASON)
    }

    /// The queue that it came from.
    pub fn source(&self) -> String {
        header_text(&self.0, HEADER_DEAD_SOURCE).unwrap_or_else(|| SMS_OUTBOUND_QUEUE.to_owned())
    }

    /// As it came.
    pub fn body(&self) -> &[u8] {
        &self.0.data
    }

    /// Those that are texts, numbers or flags.
    pub fn headers(&self) -> Value {
        let headers = self.0.properties.headers().iter();
        let entries = headers.flat_map(FieldTable::inner);
        let readable = entries.filter_map(|(name, value)| {
            let value = match value {
                AMQPValue::LongString(text) => Value::from(text.to_string()),
                AMQPValue::ShortString(text) => Value::from(text.to_string()),
                AMQPValue::LongLongInt(number) => Value::from(*number),
                AMQPValue::LongInt(number) => Value::from(*number),
                AMQPValue::Boolean(flag) => Value::from(*flag),
                _ => return None,
            };
            Some((name.to_string(), value))
        });
        Value::Object(readable.collect::<Map<_, _>>())
    }

    /// Without what setting it aside has added.
    fn original_headers(&self) -> FieldTable {
        let mut headers = FieldTable::default();
        let entries = self.0.properties.headers().iter();
        for (name, value) in entries.flat_map(FieldTable::inner) {
            let added = [HEADER_DEAD_REASON, HEADER_DEAD_SOURCE, HEADER_DEATHS];
            if !added.contains(&name.as_str()) {
                headers.insert(name.clone(), value.clone());
            }
        }
        headers
    }
}
