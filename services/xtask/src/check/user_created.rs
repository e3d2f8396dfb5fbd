//! Events of the auth-service, and the references that user-service makes of them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use test_support::servers::psql;
use test_support::{Http, try_eventually};

use super::report::{Seen, readable};
use crate::auth_event;
use crate::services::Services;

const EVENTS: u64 = 1000;
const DUPLICATES_PERCENT: u64 = 10;
const DEADLINE: Duration = Duration::from_secs(30);

/// Publishes events, then looks for every user in the table and for the last one through the API.
pub fn publish_and_find(services: &Services) -> Result<Seen> {
    let database = &services.user_service_database_url;
    let highest = "SELECT coalesce(max(user_id), 0) FROM auth_user_references";
    let first: i64 = psql(database, highest)?.parse::<i64>().context("an id")? + 1;
    let users = EVENTS - EVENTS * DUPLICATES_PERCENT / 100;
    let arguments = [
        ("--count", EVENTS.to_string()),
        ("--duplicates-percent", DUPLICATES_PERCENT.to_string()),
        ("--first-id", first.to_string()),
    ];
    let begin = Instant::now();
    auth_event::publish(&services.rabbitmq_url, &arguments)?;
    let published = begin.elapsed();

    let count = format!("SELECT count(*) FROM auth_user_references WHERE user_id >= {first}");
    try_eventually(DEADLINE, "a reference of every user", || {
        let found = psql(database, &count)?;
        ensure!(found == users.to_string(), "{found} of {users} references");
        Ok(())
    })?;
    let stored = begin.elapsed();
    let last = first + i64::try_from(users)? - 1;
    let url = format!(
        "{}/api/v1/auth-user-references/{last}",
        services.user_service.url
    );
    let answer = Http::new().get(&url)?;
    ensure!(
        answer.status == 200 && answer.body["user_id"] == last,
        "{url}: {} {}",
        answer.status,
        answer.text
    );
    Ok(Seen {
        result: format!("{users} references, each once"),
        time: format!(
            "published in {}, stored after {}",
            readable(published),
            readable(stored)
        ),
    })
}
