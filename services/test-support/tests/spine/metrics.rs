//! Metrics say what happened.

use anyhow::ensure;
use test_support::app::{App, DEADLINE, Node, Setup, Verdict};
use test_support::{Link, eventually};

/// Waits until series have these values; the labels select one each.
fn eventually_says(app: &App, node: &Node, expected: &[(&str, &str, f64)]) {
    for (name, labels, value) in expected {
        eventually(DEADLINE, &format!("{name}{{{labels}}} = {value}"), || {
            let said = node.metric(app.http(), name, labels);
            ensure!((said - value).abs() < f64::EPSILON, "{said}");
            Ok(())
        });
    }
}

#[test]
fn a_replica_that_is_cut_off_says_so_and_that_it_is_back() {
    let (mut setup, guards) = Setup::shared();
    let link = setup.relay_replicas_to_broker();
    let mut app = App::new(setup, Some(guards));
    app.start_all(1);
    let replica = &app.replicas[0];
    let purpose = "purpose=\"cache sync\"";
    let stands = |stands: bool, state: &'static str| {
        let connected = f64::from(u8::from(stands));
        let mut expected = vec![("identity_amqp_connected", purpose, connected)];
        for label in [
            "state=\"disconnected\"",
            "state=\"awaiting_snapshot\"",
            "state=\"receiving_snapshot\"",
            "state=\"synced\"",
        ] {
            let is = f64::from(u8::from(label.contains(state)));
            expected.push(("identity_cache_state", label, is));
        }
        expected
    };
    eventually_says(&app, replica, &stands(true, "synced"));
    let failures = || {
        let name = "identity_amqp_connection_failures_total";
        replica.metric(app.http(), name, purpose)
    };
    assert!(failures() < 0.5);
    link.set_link(Link::Down);
    eventually_says(&app, replica, &stands(false, "disconnected"));
    assert!(failures() > 0.5);
    link.set_link(Link::Up);
    eventually_says(&app, replica, &stands(true, "synced"));
    let snapshots = "cause=\"connected\",outcome=\"completed\"";
    eventually_says(
        &app,
        replica,
        &[
            ("identity_amqp_connects_total", purpose, 2.0),
            ("identity_snapshots_total", snapshots, 2.0),
            ("identity_digest_mismatches_total", "", 0.0),
            ("identity_ready", "", 1.0),
        ],
    );
}

#[test]
fn server_b_counts_full_syncs_snapshots_and_replicas() {
    let app = App::start();
    app.bulk_users(50);
    app.converged(DEADLINE);
    let (good, output) = app.cli(&["full-sync"]);
    assert!(good, "{output}");
    let b = app.server_b.as_ref().expect("server B runs");
    eventually_says(
        &app,
        b,
        &[
            ("identity_full_syncs_total", "completed", 1.0),
            ("identity_full_syncs_total", "failed", 0.0),
            ("identity_full_sync_users_total", "", 50.0),
            ("identity_full_sync_duration_seconds_count", "", 1.0),
            ("identity_snapshots_sent_total", "completed", 2.0),
            ("identity_snapshots_sent_total", "failed", 0.0),
            ("identity_replicas", "proven=\"true\"", 2.0),
            ("identity_replicas", "proven=\"false\"", 0.0),
        ],
    );
    let reads = b.metric(app.http(), "identity_snapshot_reads_total", "");
    assert!((1.0..=2.0).contains(&reads), "{reads}");
    let in_use = b.metric(app.http(), "identity_database_connections", "");
    let max = b.metric(app.http(), "identity_database_connections_max", "");
    assert!((1.0..=max).contains(&in_use), "{in_use} of {max}");
}

#[test]
fn a_mismatch_is_counted_by_the_replica_that_finds_it() {
    let (setup, guards) = Setup::shared();
    let mut app = App::new(setup, Some(guards));
    app.start_all(1);
    let user = app.create_user("alice");
    app.everywhere(&user.key, Verdict::Accepted);
    app.converged(DEADLINE);
    let _ = app.sql("UPDATE relay_state SET digest = '\\x00000000000000000000000000000001'");
    let replica = &app.replicas[0];
    eventually(DEADLINE, "a mismatch", || {
        replica.metric(app.http(), "identity_digest_mismatches_total", "") >= 1.0
    });
    // The audit that the replica asks for corrects the digest.
    app.converged(DEADLINE);
}

#[test]
fn the_backlog_of_sms_is_told_by_status_up_to_a_limit() {
    let (setup, guards) = Setup::shared();
    let mut app = App::new(setup, Some(guards));
    app.start_b();
    app.wait_ready();
    let sms = |rows: u32, status: &str, due: &str| {
        let _ = app.sql(&format!(
            "INSERT INTO sms_messages (message_id, user_id, recipient, body, encoding, segments, submitted_at,
                 admission_epoch, admission_sequence, admission_cache_age_ms, status, next_attempt_at)
             SELECT gen_random_uuid(), 1, '+14155550123', 'a', 'gsm7', 1, now(), 1, 1, 0, '{status}', {due}
             FROM generate_series(1, {rows})"
        ));
    };
    // None of them is due: the dispatcher leaves them alone.
    sms(3, "queued", "now() + interval '1 h'");
    sms(2, "sending", "now() + interval '1 h'");
    sms(4, "sent", "now() - interval '1 h'");
    let b = app.server_b.as_ref().expect("server B runs");
    let backlog = |queued: f64, sending: f64| {
        let name = "identity_sms_backlog";
        [(name, "queued", queued), (name, "sending", sending)]
    };
    eventually_says(&app, b, &backlog(3.0, 2.0));
    // Not due, and old all the same: a provider that fails makes such ones.
    let _ = app.sql(
        "UPDATE sms_messages SET submitted_at = now() - interval '1 h' WHERE status = 'sending'",
    );
    eventually(DEADLINE, "the age of the oldest", || {
        let age = b.metric(app.http(), "identity_sms_backlog_oldest_seconds", "");
        ensure!((3_600.0..3_660.0).contains(&age), "{age}");
        Ok(())
    });
    // Many: a look may cost no more than so much.
    sms(20_000, "queued", "now() + interval '2 h'");
    eventually(DEADLINE, "no more than the limit", || {
        let queued = b.metric(app.http(), "identity_sms_backlog", "");
        ensure!((queued - 10_000.0).abs() < f64::EPSILON, "{queued}");
        Ok(())
    });
    // Behind all of these: what a provider fails is put off for longer each time.
    let _ = app.sql(
        "UPDATE sms_messages SET submitted_at = now() - interval '2 h', next_attempt_at = now() + interval '3 h', failures = 9
         WHERE status = 'sending'",
    );
    eventually(DEADLINE, "the age of the oldest", || {
        let age = b.metric(app.http(), "identity_sms_backlog_oldest_seconds", "");
        ensure!((7_200.0..7_260.0).contains(&age), "{age}");
        Ok(())
    });
}
