//! Changes made behind the triggers.

use std::ops::Range;
use std::time::Instant;

use test_support::app::{App, DEADLINE, Setup, Verdict, bulk_key};
use test_support::eventually;

use crate::stream::{assert_equal, counter};
use crate::{count, writes_per_second};

const AUDITS: &str = "identity_audits_total";
const ALARM: &str = "a change was made behind the triggers";

#[test]
fn drift_made_behind_the_triggers_is_found_by_the_next_audit_alarmed_and_healed_on_every_replica() {
    let _alone = crate::alone();
    let (users, each) = (count(100_000, 10_000), count(1_000, 50));
    let (setup, guards) = Setup::shared();
    let mut app = App::new(setup.env("AUDIT_INTERVAL_SECONDS", "2"), Some(guards));
    app.start_all(3);
    app.bulk_users(users);
    app.converged(DEADLINE);
    // Users that do not drift change all the while.
    let writer = app.writer(writes_per_second(), move |number| {
        format!(
            "UPDATE users SET daily_quota = daily_quota + 1 WHERE username = 'user-{}'",
            users - number % (users / 2)
        )
    });

    let audits = |outcome: &str| {
        let b = app.server_b.as_ref().expect("server B runs");
        counter(&app, b, AUDITS, outcome)
    };
    let drift = Drift::new(each);
    let _ = app.sql(&drift.sql());
    let (drifted, equal) = (Instant::now(), audits("equal"));
    eventually(DEADLINE, "an audit that finds it", || audits("drift") > 0);
    let found = drifted.elapsed();
    // One may have been on its way.
    assert!(audits("equal") <= equal + 1, "an audit has missed it");
    drift.healed(&app);
    let healed = drifted.elapsed();
    let alarms: Vec<String> = (app.output().lines())
        .filter(|line| line.contains(ALARM))
        .map(str::to_owned)
        .collect();
    assert!(alarms[0].contains("\"ERROR\""), "{alarms:?}");

    // Their next ordinary change must not bring anything back, not even for a moment.
    let mismatches = || -> u64 {
        let label = "effect=\"mismatch\"";
        (app.replicas.iter())
            .map(|replica| counter(&app, replica, "identity_events_total", label))
            .sum()
    };
    let differed = mismatches();
    let _ = app.sql(&format!(
        "UPDATE users SET daily_quota = daily_quota + 1 WHERE username IN ({})",
        names(0..4 * each)
    ));
    let written = writer.stop();
    assert_equal(&app, DEADLINE);
    drift.healed(&app);
    assert_eq!(audits("drift"), 1, "their next change brought drift again");
    assert_eq!(mismatches(), differed, "their next change differed again");
    println!(
        "7 drift: {} changes behind the triggers among {users} users under {written} writes: found by the next audit \
         after {:.1} s, {} alarm, healed on {} replicas after {:.1} s",
        4 * each,
        found.as_secs_f64(),
        alarms.len(),
        app.replicas.len(),
        healed.as_secs_f64()
    );
}

/// As many users of each kind.
struct Drift {
    inactive: Range<u64>,
    deleted: Range<u64>,
    /// They have another key.
    rekeyed: Range<u64>,
    created: Range<u64>,
}

impl Drift {
    fn new(each: u64) -> Self {
        let kind = |number: u64| number * each..(number + 1) * each;
        Self {
            inactive: kind(0),
            deleted: kind(1),
            rekeyed: kind(2),
            created: kind(3),
        }
    }

    fn sql(&self) -> String {
        let drifted = |key: &str| format!("sha256(convert_to('isk_drift_' || {key}, 'UTF8'))");
        format!(
            "BEGIN;
             ALTER TABLE users DISABLE TRIGGER USER;
             ALTER TABLE api_keys DISABLE TRIGGER USER;
             UPDATE users SET is_active = false WHERE username IN ({inactive});
             DELETE FROM users WHERE username IN ({deleted});
             UPDATE api_keys SET digest = {new_key} FROM users
                 WHERE users.user_id = api_keys.user_id AND username IN ({rekeyed});
             DELETE FROM users WHERE username IN ({created});
             WITH made AS (INSERT INTO users (username, version)
                           SELECT 'new-' || name, nextval('user_version') FROM ({created}) created (name)
                           RETURNING user_id, username)
             INSERT INTO api_keys (user_id, digest, prefix) SELECT user_id, {new_key}, 'isk_drift_' FROM made;
             SET CONSTRAINTS ALL IMMEDIATE;
             DO $$ DECLARE one record; BEGIN
                 FOR one IN SELECT tgrelid::regclass AS of, tgname FROM pg_trigger
                     WHERE NOT tgisinternal AND tgrelid IN ('users'::regclass, 'api_keys'::regclass)
                 LOOP EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', one.of, one.tgname); END LOOP;
             END $$;
             COMMIT",
            inactive = names(self.inactive.clone()),
            deleted = names(self.deleted.clone()),
            rekeyed = names(self.rekeyed.clone()),
            created = names(self.created.clone()),
            new_key = drifted("username"),
        )
    }

    /// Waits until every replica knows of all of it.
    fn healed(&self, app: &App) {
        let old = |number: u64| bulk_key(&format!("user-{}", number + 1));
        let new = |name: &str, number: u64| format!("isk_drift_{name}{}", number + 1);
        let expect = |keys: Vec<String>, verdict: Verdict| {
            for key in keys {
                app.everywhere(&key, verdict);
            }
        };
        expect(self.inactive.clone().map(old).collect(), Verdict::Inactive);
        expect(self.deleted.clone().map(old).collect(), Verdict::Unknown);
        expect(self.rekeyed.clone().map(old).collect(), Verdict::Unknown);
        let keys = self.rekeyed.clone().map(|number| new("user-", number));
        expect(keys.collect(), Verdict::Accepted);
        expect(self.created.clone().map(old).collect(), Verdict::Unknown);
        let keys = self.created.clone().map(|number| new("new-user-", number));
        expect(keys.collect(), Verdict::Accepted);
    }
}

/// The names of users that [`App::bulk_users`] made, counted from 0, as SQL.
fn names(users: Range<u64>) -> String {
    format!(
        "SELECT 'user-' || n FROM generate_series({}, {}) n",
        users.start + 1,
        users.end
    )
}
