//! Load, and no fault.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;
use test_support::app::{App, DEADLINE, Node, Setup, bulk_key};
use test_support::eventually;

use crate::{alone, count, writes_per_second};

/// Users that are written, and as many that send.
const USERS: u64 = 1000;
/// Between two sends through each replica.
const PAUSE: Duration = Duration::from_millis(5);

#[test]
fn without_faults_nothing_is_missing_different_or_published_again_under_load() {
    let _alone = alone();
    let load = Duration::from_secs(count(120, 10));
    let (setup, guards) = Setup::shared();
    let mut app = App::new(setup.env("AUDIT_INTERVAL_SECONDS", "1"), Some(guards));
    app.start_all(2);
    app.bulk_users(2 * USERS);
    app.converged(DEADLINE);
    let compared_before = compared(&app);

    let began = Instant::now();
    let writer = app.writer(writes_per_second(), write);
    let sent = AtomicU64::new(0);
    thread::scope(|scope| {
        for replica in &app.replicas {
            let (app, sent) = (&app, &sent);
            scope.spawn(move || send_until(app, replica, began + load, sent));
        }
        let (synced, output) = app.cli(&["full-sync"]);
        assert!(synced, "{output}");
    });
    let b = app.server_b.as_ref().expect("server B runs");
    let audits = eventually(DEADLINE, "three audits", || {
        let audits = b.metric(app.http(), "identity_audits_total", "equal");
        ensure!(audits >= 3.0, "{audits}");
        Ok(audits)
    });
    let (written, took) = (writer.stop(), began.elapsed());
    let sent = sent.into_inner();
    app.converged(DEADLINE);
    let compared = compared(&app) - compared_before;
    assert!(sent > written / 10, "{sent} sends are not the load");
    assert!(compared >= 4.0, "the digests must have been compared");
    app.assert_no_faults();
    assert!(b.metric(app.http(), "identity_audits_total", "drift") < 0.5);
    for replica in &app.replicas {
        let snapshots = replica.metric(app.http(), "identity_snapshots_total", "");
        assert!((snapshots - 1.0).abs() < 0.5, "{snapshots} snapshots");
    }
    eventually(DEADLINE, "every accepted SMS at the provider", || {
        let dispatched = app.sql("SELECT count(*) FROM sms_messages WHERE status = 'sent'");
        ensure!(dispatched == sent.to_string(), "{dispatched} of {sent}");
        Ok(())
    });
    println!(
        "10 no faults: {written} writes and {sent} sends in {:.0} s, a full sync, {audits} audits, {compared} digests \
         compared equal; gaps, mismatches and events published again: 0",
        took.as_secs_f64()
    );
}

/// Users come, change, get and lose a second key, and go.
fn write(n: u64) -> String {
    let user = format!("user-{}", n * 7 / 10 % USERS + 1);
    let coming = n / 10;
    match n % 10 {
        0 => format!("INSERT INTO users (username) VALUES ('coming-{coming}')"),
        1 => format!(
            "INSERT INTO api_keys (user_id, digest, prefix)
             SELECT user_id, sha256('isk_{coming}'), 'isk_' FROM users WHERE username = 'coming-{coming}'"
        ),
        2 => format!(
            "UPDATE api_keys SET user_id = (SELECT user_id FROM users WHERE username = 'user-{}'),
                                 expires_at = '2100-01-01'
             WHERE digest = sha256('isk_{coming}')",
            coming % USERS + 1
        ),
        3 => format!("DELETE FROM api_keys WHERE digest = sha256('isk_{coming}')"),
        4 => format!("DELETE FROM users WHERE username = 'coming-{coming}'"),
        5..=7 => format!("UPDATE users SET daily_quota = {n} WHERE username = '{user}'"),
        _ => format!("UPDATE users SET is_active = NOT is_active WHERE username = '{user}'"),
    }
}

/// Sends for users whom nobody writes; every send is accepted.
fn send_until(app: &App, replica: &Node, end: Instant, sent: &AtomicU64) {
    for number in (USERS + 1..=2 * USERS).cycle() {
        if Instant::now() >= end {
            return;
        }
        let key = bulk_key(&format!("user-{number}"));
        let answer = app.send(replica, &key).expect("A answers");
        assert_eq!(answer.status, 202, "{}", answer.text);
        sent.fetch_add(1, Ordering::Relaxed);
        thread::sleep(PAUSE);
    }
}

/// Times that a replica found its digest equal to the database's.
fn compared(app: &App) -> f64 {
    let proofs = app
        .replicas
        .iter()
        .map(|replica| replica.metric(app.http(), "identity_events_total", "effect=\"proven\""));
    proofs.sum()
}
