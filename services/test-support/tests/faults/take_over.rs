//! A server B that runs a full sync loses its lock without noticing, and another runs the sync again.

use anyhow::ensure;
use serde_json::Value;
use test_support::app::{App, DEADLINE, Setup, Verdict, bulk_key};
use test_support::{Hold, eventually};

use crate::lock::kill_holder;
use crate::stream::{Listener, assert_equal};

/// Enough that a run looks at its row before its end.
const USERS: u64 = 2_500;
/// The advisory lock of full syncs.
const LOCK: u64 = 0x1de7_5711_c0de_0002;

#[test]
fn a_full_sync_that_another_server_b_takes_over_brings_no_old_user_back() {
    let _alone = crate::alone();
    let (setup, guards) = Setup::shared();
    let listener = Listener::on(&guards.1);
    let database_url = setup.database_url.clone();
    let mut app = App::new(setup.env("AUDIT_INTERVAL_SECONDS", "1"), Some(guards));
    app.start_b();
    app.wait_ready();
    let one = app.server_b.take().expect("just started");
    app.start_all(2);
    app.bulk_users(USERS);
    app.converged(DEADLINE);
    listener.listen();

    // The run begins, reads the users, and stands still before it has noted what it read.
    let audit = Hold::new(&database_url, "SELECT FROM relay_state FOR UPDATE");
    let asked = app.admin("POST", "/full-syncs", None).expect("B answers");
    let sync_id = asked.body["sync_id"].as_str().expect("an id").to_owned();
    let state = || {
        app.sql(&format!(
            "SELECT status FROM syncs WHERE sync_id = '{sync_id}'"
        ))
    };
    eventually(DEADLINE, "a run", || state() == "running");
    let row = Hold::new(&database_url, "SELECT FROM syncs FOR UPDATE");
    drop(audit);
    waits(&app, "UPDATE syncs SET users_total");
    // What it has read is old now.
    let _ = app.sql("UPDATE users SET is_active = false WHERE username = 'user-1'");
    let revoked = bulk_key("user-1");
    app.everywhere(&revoked, Verdict::Inactive);
    kill_holder(&app, LOCK);
    waits(&app, "UPDATE syncs SET status");
    drop(row);

    eventually(DEADLINE, "the second run to end", || {
        for replica in &app.replicas {
            assert_eq!(app.verdict(replica, &revoked), Verdict::Inactive);
        }
        ensure!(state() == "completed", "{}", state());
        Ok(())
    });
    assert_equal(&app, DEADLINE);
    app.everywhere(&revoked, Verdict::Inactive);
    for replica in &app.replicas {
        let asked = replica.metric(app.http(), "identity_snapshots_total", "cause=\"failed\"");
        assert!(asked < 0.5, "the second run brings what the first did not");
    }
    let (ok, told) = app.cli(&["replicas", "--output", "json"]);
    assert!(ok && told.matches(&sync_id).count() == 2, "{told}");

    let heard = Runs::of(&listener, &sync_id);
    let second = heard.second.as_deref().expect("a second run");
    assert_eq!(heard.ends, [second], "only the second run ends well");
    assert!(
        heard.rows_of_first > 0,
        "the first run came too late to harm"
    );
    assert_eq!(heard.rows_of_second, USERS);
    for b in [&one, app.server_b.as_ref().expect("it runs")] {
        assert!(b.process.exit_status().expect("a child").is_none());
    }
    println!(
        "full sync taken over: {} rows of the first run, {} of them after its end was told; no old user came back, both \
         caches equal",
        heard.rows_of_first, heard.late
    );
}

/// Until a statement that begins so waits for a lock.
fn waits(app: &App, statement: &str) {
    eventually(DEADLINE, "a statement to wait", || {
        let waiting = app.sql(&format!(
            "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '{statement}%'"
        ));
        ensure!(waiting == "1", "{waiting} wait with {statement}");
        Ok(())
    });
}

/// What the stream has told of the runs of a full sync.
#[derive(Default)]
struct Runs {
    /// The run that began once the first had been given up.
    second: Option<String>,
    given_up: bool,
    rows_of_first: u64,
    /// Of these, the ones that came when the run had been given up.
    late: u64,
    rows_of_second: u64,
    ends: Vec<String>,
}

impl Runs {
    fn of(listener: &Listener, first: &str) -> Self {
        let mut runs = Self::default();
        listener.each(|message| runs.take(message, first));
        runs
    }

    fn take(&mut self, message: &Value, first: &str) {
        let text = message["payload"].as_str().expect("a payload");
        let body: Value = serde_json::from_str(text).expect("JSON");
        let Some(id) = body["sync_id"].as_str() else {
            return;
        };
        match message["properties"]["type"].as_str().unwrap_or_default() {
            "sync.aborted" => {
                assert_eq!(id, first, "only the first run is given up");
                self.given_up = true;
            }
            "sync.started" if id != first => {
                assert!(self.given_up, "the first run is given up before");
                self.second = Some(id.to_owned());
            }
            "sync.started" => assert!(self.second.is_none(), "the first id begins once"),
            "sync.completed" => self.ends.push(id.to_owned()),
            "user.updated" if id == first => {
                self.rows_of_first += 1;
                self.late += u64::from(self.given_up);
            }
            "user.updated" => self.rows_of_second += 1,
            other => panic!("{other}: {text}"),
        }
    }
}
