//! How far changes are behind when they arrive here.

use std::sync::LazyLock;

use lapin::message::Delivery;
use prometheus::{Histogram, register_histogram};
use service_runtime::amqp::{header_flag, header_number};
use time::OffsetDateTime;
use wire_contract::{ConfigEvent, HEADER_COMMITTED_AT, HEADER_PUBLISHED_AT, HEADER_REVOKES};

use crate::cache::Effect;

const LAG_BUCKETS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 300.0,
];

static LAG: LazyLock<Histogram> = LazyLock::new(|| {
    register_histogram!(
        "identity_event_lag_seconds",
        "From the commit of a change until it is applied at this replica",
        LAG_BUCKETS.to_vec()
    )
    .expect("registered once")
});
static PUBLISH_LAG: LazyLock<Histogram> = LazyLock::new(|| {
    register_histogram!(
        "identity_event_publish_lag_seconds",
        "From the publishing of a change until it is applied at this replica",
        LAG_BUCKETS.to_vec()
    )
    .expect("registered once")
});
static REVOCATION: LazyLock<Histogram> = LazyLock::new(|| {
    register_histogram!(
        "identity_revocation_effect_seconds",
        "From the commit of a change that takes a right away until it is applied at this replica",
        LAG_BUCKETS.to_vec()
    )
    .expect("registered once")
});

/// The histograms exist from the start.
pub(super) fn register() {
    for histogram in [&LAG, &PUBLISH_LAG, &REVOCATION] {
        LazyLock::force(histogram);
    }
}

/// When a change of the stream was made, by the clocks of others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change {
    committed: OffsetDateTime,
    /// Absent from what an older server B sends.
    published: Option<OffsetDateTime>,
    revokes: bool,
}

impl Change {
    /// `None` for what is no change: bookmarks, snapshots, copies of a full sync.
    pub(super) fn of(event: &ConfigEvent, delivery: &Delivery) -> Option<Self> {
        let occurred_at = match event {
            ConfigEvent::UserUpdated(event) if event.sequence.is_some() => event.occurred_at,
            ConfigEvent::UserDeleted(event) => event.occurred_at,
            _ => return None,
        };
        Some(Self {
            committed: time_of(delivery, HEADER_COMMITTED_AT).unwrap_or(occurred_at),
            published: time_of(delivery, HEADER_PUBLISHED_AT),
            revokes: header_flag(delivery, HEADER_REVOKES),
        })
    }

    /// Measures it if it changed the cache by being taken in: what a snapshot had brought before is no news.
    pub(super) fn taken(self, effect: Effect) {
        if !matches!(effect, Effect::Applied | Effect::Gap) {
            return;
        }
        let now = OffsetDateTime::now_utc();
        // Not below 0: clocks of two machines may differ by more than the way takes.
        let since = |at: OffsetDateTime| (now - at).as_seconds_f64().max(0.0);
        LAG.observe(since(self.committed));
        if self.revokes {
            REVOCATION.observe(since(self.committed));
        }
        if let Some(published) = self.published {
            PUBLISH_LAG.observe(since(published));
        }
    }
}

/// A time that a header carries in microseconds since the Unix epoch.
fn time_of(delivery: &Delivery, header: &str) -> Option<OffsetDateTime> {
    let micros = header_number(delivery, header)?;
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000).ok()
}

#[cfg(test)]
mod tests {
    use lapin::BasicProperties;
    use lapin::types::{AMQPValue, FieldTable};
    use wire_contract::UserDeleted;

    use super::*;

    const MADE: i64 = 1_700_000_000;

    fn deleted() -> ConfigEvent {
        ConfigEvent::UserDeleted(UserDeleted {
            user_id: 1,
            api_key: None,
            version: 2,
            epoch: 1,
            sequence: 1,
            occurred_at: at(MADE),
        })
    }

    fn at(seconds: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(seconds).expect("a time")
    }

    fn delivery(headers: &[(&str, AMQPValue)]) -> Delivery {
        let mut table = FieldTable::default();
        for (name, value) in headers {
            table.insert((*name).into(), value.clone());
        }
        let mut delivery = Delivery::mock(1, "".into(), "".into(), false, Vec::new());
        delivery.properties = BasicProperties::default().with_headers(table);
        delivery
    }

    #[test]
    fn a_change_was_committed_and_published_when_its_headers_say() {
        let micros = |seconds: i64| AMQPValue::LongLongInt(seconds * 1_000_000);
        let delivery = delivery(&[
            (HEADER_COMMITTED_AT, micros(MADE + 3)),
            (HEADER_PUBLISHED_AT, micros(MADE + 4)),
            (HEADER_REVOKES, AMQPValue::Boolean(true)),
        ]);
        let change = Change::of(&deleted(), &delivery).expect("a change");
        assert_eq!(change.committed, at(MADE + 3));
        assert_eq!(change.published, Some(at(MADE + 4)));
        assert!(change.revokes);
    }

    #[test]
    fn of_an_older_server_b_the_time_of_the_statement_is_taken() {
        let change = Change::of(&deleted(), &delivery(&[])).expect("a change");
        assert_eq!(change.committed, at(MADE));
        assert_eq!((change.published, change.revokes), (None, false));
    }
}
