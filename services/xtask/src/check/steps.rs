//! The steps of the check, in their order.

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use test_support::servers::{psql, random_hex, write_private};
use test_support::{Answer, Http, try_eventually};

use super::probe::{self, Verdict};
use super::report::{Seen, readable};
use super::{sms, user_created};
use crate::services::Services;
use crate::workspace::State;

const IMPORTED: u32 = 10_000;
const SYNC_DEADLINE: Duration = Duration::from_mins(1);

/// One row of the table.
pub struct Step<'a> {
    pub name: &'static str,
    pub what: &'static str,
    pub run: fn(&mut Check<'a>) -> Result<Seen>,
}

/// All steps; a later one may need what an earlier one made.
pub fn all<'a>() -> [Step<'a>; 12] {
    let step = |name, what, run| Step { name, what, run };
    [
        step(
            "import",
            "server-b users import: 10,000 users from CSV",
            Check::import,
        ),
        step("REST", "PATCH is_active: false", Check::deactivate_by_rest),
        step("REST", "POST a user", Check::create_by_rest),
        step("CLI", "server-b users create", Check::create_by_cli),
        step(
            "CLI",
            "server-b users update --active false",
            Check::deactivate_by_cli,
        ),
        step(
            "psql",
            "UPDATE users SET is_active = false",
            Check::deactivate_by_sql,
        ),
        step(
            "SMS",
            "200 from several users through all replicas",
            Check::send_sms,
        ),
        step(
            "UserCreated",
            "1,000 events, 10 % of them twice",
            Check::create_references,
        ),
        step("revoke", "rotate a key", Check::rotate_key),
        step("delete", "DELETE a user", Check::delete_by_rest),
        step("full sync", "POST full-syncs", Check::full_sync),
        step(
            "clean up",
            "DELETE FROM users in one psql statement",
            Check::clean_up,
        ),
    ]
}

/// A user that the check has made.
#[derive(Debug, Clone)]
pub struct User {
    pub user_id: i64,
    pub api_key: String,
}

/// What the steps share.
#[derive(Debug)]
pub struct Check<'a> {
    state: &'a State,
    services: &'a Services,
    http: Http,
    bearer: String,
    /// Begins the names of this run's users.
    prefix: String,
    /// Imported users that later steps take for themselves, one each, and some to send SMS from.
    users: Vec<User>,
}

impl<'a> Check<'a> {
    /// Nothing has been made yet.
    pub fn new(state: &'a State, services: &'a Services) -> Result<Self> {
        Ok(Self {
            state,
            services,
            http: Http::new(),
            bearer: format!("Bearer {}", services.admin_token),
            prefix: format!("check-{}", &random_hex()?[..8]),
            users: Vec::new(),
        })
    }

    fn import(&mut self) -> Result<Seen> {
        let mut csv = "username,daily_quota,is_active,api_key\n".to_owned();
        let mut keys = Vec::new();
        for number in 0..IMPORTED {
            let key = format!("check-{}", random_hex()?);
            writeln!(csv, "{}-{number},1000,true,{key}", self.prefix)?;
            keys.push(key);
        }
        let file = self.state.join("check-users.csv");
        write_private(&file, &csv)?;
        let before = self.users_in_table()?;
        let begin = Instant::now();
        let file_name = file.display().to_string();
        self.services
            .server_b_cli(&["users", "import", &file_name])?;
        let took = begin.elapsed();
        let lag = probe::wait_for_users(&self.services.replicas, before + u64::from(IMPORTED))?;
        // It holds keys.
        fs::remove_file(&file)?;

        let sample = keys.into_iter().enumerate().step_by(500);
        let mut tried = 0;
        for (number, api_key) in sample {
            for replica in &self.services.replicas {
                let verdict = probe::ask(&self.http, replica, &api_key)?;
                ensure!(
                    verdict == Verdict::Accepted,
                    "{}: key {number} is {verdict:?}",
                    replica.name
                );
                tried += 1;
            }
            let sql = format!(
                "SELECT user_id FROM users WHERE username = '{}-{number}'",
                self.prefix
            );
            let user_id = psql(&self.services.database_url, &sql)?
                .parse()
                .context("a user_id")?;
            self.users.push(User { user_id, api_key });
        }
        let (rate, replicas) = (
            f64::from(IMPORTED) / took.as_secs_f64(),
            self.services.replicas.len(),
        );
        Ok(Seen {
            result: format!(
                "{IMPORTED} users in {replicas} replicas, {tried} sampled keys accepted"
            ),
            time: format!("{} ({rate:.0}/s), then {lag}", readable(took)),
        })
    }

    fn deactivate_by_rest(&mut self) -> Result<Seen> {
        let user = self.take_user()?;
        let path = format!("users/{}", user.user_id);
        self.change(&user.api_key, Verdict::Inactive, || {
            self.rest("PATCH", &path, Some(&json!({"is_active": false})), 200)
        })
    }

    fn create_by_rest(&mut self) -> Result<Seen> {
        let key = format!("check-{}", random_hex()?);
        let user = json!({
            "username": format!("{}-rest", self.prefix),
            "daily_quota": 5,
            "is_active": true,
            "api_key": key,
        });
        self.change(&key, Verdict::Accepted, || {
            self.rest("POST", "users", Some(&user), 201)
        })
    }

    fn create_by_cli(&mut self) -> Result<Seen> {
        let name = format!("{}-cli", self.prefix);
        let users = self.users_in_table()?;
        let arguments = [
            "users",
            "create",
            &name,
            "--daily-quota",
            "5",
            "--output",
            "json",
        ];
        let printed = self.services.server_b_cli(&arguments)?;
        // The key was not known before, so the count of users shows when the replicas know of it.
        let lag = probe::wait_for_users(&self.services.replicas, users + 1)?;
        let created: Value = serde_json::from_str(&printed).context("no JSON was printed")?;
        self.all_accept(api_key(&created)?)?;
        Ok(Seen {
            result: "accepted by every replica".to_owned(),
            time: lag,
        })
    }

    fn deactivate_by_cli(&mut self) -> Result<Seen> {
        let user = self.take_user()?;
        let id = user.user_id.to_string();
        self.change(&user.api_key, Verdict::Inactive, || {
            self.services
                .server_b_cli(&["users", "update", &id, "--active", "false"])
        })
    }

    fn deactivate_by_sql(&mut self) -> Result<Seen> {
        let user = self.take_user()?;
        let sql = format!(
            "UPDATE users SET is_active = false WHERE user_id = {}",
            user.user_id
        );
        self.change(&user.api_key, Verdict::Inactive, || {
            psql(&self.services.database_url, &sql)
        })
    }

    fn send_sms(&mut self) -> Result<Seen> {
        ensure!(self.users.len() >= 5, "too few users were imported");
        sms::send_and_find(self.services, &self.users)
    }

    fn create_references(&mut self) -> Result<Seen> {
        user_created::publish_and_find(self.services)
    }

    fn rotate_key(&mut self) -> Result<Seen> {
        let user = self.take_user()?;
        let path = format!("users/{}/rotate-key", user.user_id);
        let (answer, lag) = probe::lag(
            &self.services.replicas,
            &user.api_key,
            Verdict::Unknown,
            || self.rest("POST", &path, Some(&json!({})), 200),
        )?;
        self.all_accept(api_key(&answer)?)?;
        Ok(Seen {
            result: "the old key is refused, the new one accepted".to_owned(),
            time: lag,
        })
    }

    fn delete_by_rest(&mut self) -> Result<Seen> {
        let user = self.take_user()?;
        let path = format!("users/{}", user.user_id);
        self.change(&user.api_key, Verdict::Unknown, || {
            self.rest("DELETE", &path, None, 204)
        })
    }

    fn full_sync(&mut self) -> Result<Seen> {
        let begin = Instant::now();
        let started = self.rest("POST", "full-syncs", None, 202)?;
        let id = started["sync_id"]
            .as_str()
            .context("the answer has no sync_id")?;
        let sync = try_eventually(SYNC_DEADLINE, "the full sync to complete", || {
            let sync = self.rest("GET", &format!("full-syncs/{id}"), None, 200)?;
            match sync["status"].as_str() {
                Some("completed" | "failed") => Ok(sync),
                _ => bail!("{sync}"),
            }
        })?;
        ensure!(sync["status"] == "completed", "{sync}");
        let took = begin.elapsed();
        let users = self.users_in_table()?;
        probe::wait_for_users(&self.services.replicas, users)?;
        for user in &self.users {
            for replica in &self.services.replicas {
                let verdict = probe::ask(&self.http, replica, &user.api_key)?;
                ensure!(
                    verdict == Verdict::Accepted,
                    "{}: user {} is {verdict:?}",
                    replica.name,
                    user.user_id
                );
            }
        }
        Ok(Seen {
            result: format!("completed; the table and every replica hold {users} users"),
            time: readable(took),
        })
    }

    fn clean_up(&mut self) -> Result<Seen> {
        let sql = format!("DELETE FROM users WHERE username LIKE '{}-%'", self.prefix);
        psql(&self.services.database_url, &sql)?;
        let users = self.users_in_table()?;
        let lag = probe::wait_for_users(&self.services.replicas, users)?;
        Ok(Seen {
            result: format!("left in the table and every replica: {users}"),
            time: lag,
        })
    }

    /// Makes a change and measures until every replica shows it.
    fn change<T>(
        &self,
        key: &str,
        expected: Verdict,
        change: impl FnOnce() -> Result<T>,
    ) -> Result<Seen> {
        let (_, lag) = probe::lag(&self.services.replicas, key, expected, change)?;
        let result = match expected {
            Verdict::Accepted => "accepted by every replica",
            Verdict::Unknown => "401 from every replica",
            Verdict::Inactive => "403 from every replica",
        };
        Ok(Seen {
            result: result.to_owned(),
            time: lag,
        })
    }

    /// A call of B's administration, which must be answered with this status.
    fn rest(&self, method: &str, path: &str, body: Option<&Value>, expected: u16) -> Result<Value> {
        let url = format!("{}/admin/v1/{path}", self.services.server_b.url);
        let header = Some(("authorization", self.bearer.as_str()));
        let Answer { status, body, .. } = self.http.call(method, &url, header, body)?;
        ensure!(status == expected, "{method} {path}: {status} {body}");
        Ok(body)
    }

    fn all_accept(&self, key: &str) -> Result<()> {
        for replica in &self.services.replicas {
            let verdict = probe::ask(&self.http, replica, key)?;
            ensure!(
                verdict == Verdict::Accepted,
                "{}: the key is {verdict:?}",
                replica.name
            );
        }
        Ok(())
    }

    fn take_user(&mut self) -> Result<User> {
        self.users.pop().context("no imported user left")
    }

    fn users_in_table(&self) -> Result<u64> {
        psql(&self.services.database_url, "SELECT count(*) FROM users")?
            .parse()
            .context("a count")
    }
}

/// The key in an answer that shows it this once.
fn api_key(answer: &Value) -> Result<&str> {
    answer["api_key"]
        .as_str()
        .context("the answer has no api_key")
}
