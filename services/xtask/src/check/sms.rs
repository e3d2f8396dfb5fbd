//! SMS through every replica, and back out of server B's table.

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use test_support::servers::psql;
use test_support::{Http, try_eventually};

use super::report::{Seen, readable};
use super::steps::User;
use crate::services::Services;

const SMS: usize = 200;
const DEADLINE: Duration = Duration::from_secs(30);

/// Sends from each user through each replica in turn, then looks for every message in the database.
pub fn send_and_find(services: &Services, users: &[User]) -> Result<Seen> {
    let begin = Instant::now();
    let sent = thread::scope(|scope| {
        let senders: Vec<_> = (0..services.replicas.len())
            .map(|replica| scope.spawn(move || send(services, replica, users)))
            .collect();
        let sent = senders
            .into_iter()
            .map(|sender| sender.join().ok().context("a sender panicked")?);
        sent.collect::<Result<Vec<_>>>()
    })?;
    let sending = begin.elapsed();
    let expected: HashMap<String, i64> = sent.into_iter().flatten().collect();
    ensure!(
        expected.len() == SMS,
        "{} different message ids for {SMS} SMS",
        expected.len()
    );

    let ids: Vec<String> = expected.keys().map(|id| format!("'{id}'")).collect();
    let sql = format!(
        "SELECT message_id, user_id FROM sms_messages WHERE message_id IN ({})",
        ids.join(",")
    );
    let found = try_eventually(DEADLINE, "every SMS in sms_messages", || {
        let found = psql(&services.database_url, &sql)?;
        let count = found.lines().count();
        ensure!(count == SMS, "{count} of {SMS} SMS in sms_messages");
        Ok(found)
    })?;
    for line in found.lines() {
        let (id, user) = line.split_once('|').context("two columns")?;
        ensure!(
            expected.get(id).is_some_and(|it| it.to_string() == user),
            "{id} is said to be of user {user}"
        );
    }
    Ok(Seen {
        result: format!("{SMS} queued, {SMS} stored with the right user_id"),
        time: format!(
            "sent in {}, stored after {}",
            readable(sending),
            readable(begin.elapsed())
        ),
    })
}

/// This replica's share: message ids with the user each belongs to.
fn send(services: &Services, replica: usize, users: &[User]) -> Result<Vec<(String, i64)>> {
    let http = Http::new();
    let url = format!("{}/api/v1/sms/send", services.replicas[replica].url);
    let share = (replica..SMS).step_by(services.replicas.len());
    share
        .map(|number| {
            let user = &users[number % users.len()];
            let body =
                json!({"to": "+14155550123", "from": "ACME", "body": format!("check {number}")});
            let answer = http.call("POST", &url, Some(("API-Key", &user.api_key)), Some(&body))?;
            ensure!(
                answer.status == 202,
                "an SMS was answered with {} {}",
                answer.status,
                answer.body
            );
            let id = answer.body["message_id"]
                .as_str()
                .context("a 202 without message_id")?;
            Ok((id.to_owned(), user.user_id))
        })
        .collect()
}
