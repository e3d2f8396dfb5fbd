//! `user-service auth-events`: plays the auth-service, for development and tests.

use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use futures_util::{StreamExt, TryStreamExt, stream};
use lapin::options::ConfirmSelectOptions;
use lapin::{BasicProperties, Channel};
use serde_json::json;
use service_runtime::amqp::Connector;
use service_runtime::config::AmqpArgs;
use time::OffsetDateTime;
use wire_contract::{CONTENT_TYPE_JSON, UserCreated, UserId, encode_json};

use crate::dead_letters::publish_confirmed;
use crate::topology::{self, QueueArgs};

pub const EXAMPLES: &str = "Examples:
  user-service auth-events --count 1000 --duplicates-percent 10
  user-service auth-events --count 10000 --malformed 1000 --first-id 1";

/// Publishes whose confirms are awaited at the same time.
const IN_FLIGHT: usize = 1000;
/// Longest wait for the confirms of all, where the broker does not answer.
const STALLED_AFTER: Duration = Duration::from_mins(10);

#[derive(Debug, Args)]
pub struct AuthEventsArgs {
    /// Events to publish, repetitions included
    #[arg(long, value_name = "N")]
    count: u64,
    /// Share of them that repeat an earlier one
    #[arg(long, default_value_t = 0, value_name = "P", value_parser = clap::value_parser!(u64).range(0..=99))]
    duplicates_percent: u64,
    /// Messages besides, spread among them, that can never become a reference
    #[arg(long, default_value_t = 0, value_name = "N")]
    malformed: u64,
    /// Id of the first user, from which all its data follow; new users each time if not given
    #[arg(long, value_name = "USER_ID", value_parser = clap::value_parser!(i64).range(0..))]
    first_id: Option<UserId>,
    #[command(flatten)]
    amqp: AmqpArgs,
    #[command(flatten)]
    names: QueueArgs,
}

pub async fn run(args: AuthEventsArgs) -> anyhow::Result<()> {
    let plan = Plan {
        count: args.count,
        duplicates_percent: args.duplicates_percent,
        malformed: args.malformed,
        first_id: args.first_id.unwrap_or_else(id_of_now),
    };
    let connection = Connector::new("auth-service", &args.amqp)?
        .connect("publish events")
        .await?;
    let channel = connection.create_channel().await?;
    // The queue too: what is published before user-service has ever run must not go nowhere.
    topology::declare(&channel, &args.names).await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    let began = Instant::now();
    tokio::time::timeout(STALLED_AFTER, publish_all(&channel, &args.names, plan))
        .await
        .context("the broker does not confirm")??;
    let seconds = began.elapsed().as_secs_f64();
    connection.close(200, "bye".into()).await?;
    println!(
        "{} events of {} users (from id {}) and {} malformed messages published in {seconds:.1} s",
        plan.count,
        plan.users(),
        plan.first_id,
        plan.malformed,
    );
    Ok(())
}

async fn publish_all(channel: &Channel, names: &QueueArgs, plan: Plan) -> anyhow::Result<()> {
    // As a foreign publisher may: no `type`, no `message_id`.
    let properties = BasicProperties::default()
        .with_content_type(CONTENT_TYPE_JSON.into())
        .with_delivery_mode(2);
    stream::iter(plan.bodies())
        .map(|body| {
            let properties = properties.clone();
            let (exchange, key) = (&names.auth_events_exchange, &names.user_created_routing_key);
            async move { publish_confirmed(channel, exchange, key, &body, properties).await }
        })
        .buffer_unordered(IN_FLIGHT)
        .try_collect()
        .await
}

/// Microseconds since the epoch: the next run's users have higher ids unless this one makes more than a
/// million a second.
fn id_of_now() -> UserId {
    i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1000).unwrap_or(1)
}

/// What to publish; the same plan gives the same messages.
#[derive(Debug, Clone, Copy)]
struct Plan {
    count: u64,
    duplicates_percent: u64,
    malformed: u64,
    first_id: UserId,
}

impl Plan {
    /// Different users.
    fn users(self) -> u64 {
        self.count - self.count * self.duplicates_percent / 100
    }

    fn bodies(self) -> impl Iterator<Item = Vec<u8>> {
        let total = self.count + self.malformed;
        let (mut events, mut users) = (0, 0);
        (0..total).map(move |place| {
            if let Some(bad) = nth_of_share(place, self.malformed, total) {
                return malformed(bad);
            }
            let repeats = nth_of_share(events, self.duplicates_percent, 100).is_some();
            events += 1;
            if repeats && users > 0 {
                // Any step that is prime reaches all.
                return encode_json(&self.user(events * 7919 % users));
            }
            users += 1;
            encode_json(&self.user(users - 1))
        })
    }

    fn user(self, number: u64) -> UserCreated {
        let user_id = self.first_id + i64::try_from(number).unwrap_or(i64::MAX);
        #[expect(
            clippy::cast_precision_loss,
            reason = "microseconds of our time are below 2^53"
        )]
        let timestamp = (user_id % 4_000_000_000_000_000) as f64 / 1e6;
        UserCreated {
            event_type: "UserCreated".to_owned(),
            user_id,
            username: format!("user-{user_id}"),
            email: format!("user-{user_id}@example.com"),
            timestamp,
        }
    }
}

/// Spreads `share` of `total` evenly over the places; which of the share this place is, if it is one.
fn nth_of_share(place: u64, share: u64, total: u64) -> Option<u64> {
    let before = place * share / total;
    ((place + 1) * share / total > before).then_some(before)
}

/// Every way to be malformed in turn.
fn malformed(number: u64) -> Vec<u8> {
    let mut event = json!({
        "event_type": "UserCreated", "user_id": 1, "username": "malformed",
        "email": "malformed@example.com", "timestamp": 1.0
    });
    match number % 8 {
        0 => return b"not JSON".to_vec(),
        1 => return b"{\"event_type\": \"UserCreated\", \"user_id\": ".to_vec(),
        2 => event["event_type"] = json!("UserRenamed"),
        3 => event["user_id"] = json!("one"),
        4 => event["username"] = json!("a\0b"),
        5 => event["email"] = json!("e".repeat(1000)),
        6 => event["timestamp"] = json!(1_700_000_000_000_u64),
        _ => event["username"] = json!(null),
    }
    event.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::consumer::read;

    #[test]
    fn the_plan_has_the_shares_that_were_asked_for() {
        let plan = Plan {
            count: 10_000,
            duplicates_percent: 10,
            malformed: 1000,
            first_id: 5,
        };
        let (good, bad): (Vec<_>, Vec<_>) = plan
            .bodies()
            .map(|body| read(&body))
            .partition(Result::is_ok);
        assert_eq!((good.len(), bad.len()), (10_000, 1000));
        let mut users = std::collections::HashMap::new();
        for reference in good.into_iter().flatten() {
            let id = reference.user_id;
            let first = users.entry(id).or_insert_with(|| reference.clone());
            assert!(*first == reference, "a repetition of {id} differs");
        }
        assert_eq!((users.len(), plan.users()), (9000, 9000));
        assert_eq!(users.keys().min(), Some(&5));
    }

    #[test]
    fn every_malformed_message_is_refused_and_all_kinds_occur() {
        let reasons: HashSet<_> = (0..8)
            .map(|number| read(&malformed(number)).expect_err("malformed").to_string())
            .collect();
        assert!(reasons.len() >= 7, "{reasons:?}");
    }

    #[test]
    fn the_ids_of_now_make_timestamps_of_now() {
        let plan = Plan {
            count: 1,
            duplicates_percent: 0,
            malformed: 0,
            first_id: id_of_now(),
        };
        let body = plan.bodies().next().expect("one event");
        let age = OffsetDateTime::now_utc() - read(&body).expect("an event").occurred_at;
        assert!(age.abs() < time::Duration::MINUTE, "{age}");
    }
}
