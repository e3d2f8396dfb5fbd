//! What a broker that takes nothing, or has no queue, does to sends.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;
use test_support::app::{App, DEADLINE, Setup, Verdict};
use test_support::servers::{RabbitMq, RabbitMqOptions};
use test_support::{TestServers, eventually};

const QUEUE: &str = "sms_outbound_queue";
const CLIENTS: usize = 8;
/// Sends during the alarm.
const REFUSED: usize = 2_000;
/// What a process may grow by meanwhile, in bytes.
const GROWTH: f64 = 64e6;

#[test]
fn an_alarm_of_the_brokers_memory_is_a_503_soon_fills_nothing_and_is_over_by_itself() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let broker =
        RabbitMq::start(dir.path(), &RabbitMqOptions::default()).expect("the broker starts");
    let database = TestServers::shared().fresh_database();
    let setup = Setup::on(&broker.amqp_url("/"), database.url());
    // Server B is blocked as well, and silent: that must not close the replica here.
    let mut app = App::new(setup.env("FAIL_CLOSED_AFTER_SECONDS", "300"), None);
    app.start_all(1);
    let user = app.create_user("alice");
    app.everywhere(&user.key, Verdict::Accepted);
    let replica = &app.replicas[0];
    let memory = || replica.metric(app.http(), "process_resident_memory_bytes", "");
    assert_eq!(app.send(replica, &user.key).expect("A answers").status, 202);

    broker.memory_alarm(true).expect("the alarm is raised");
    let in_doubt = thread::scope(|scope| {
        // The broker says that it is blocked in answer to the first that it does not take; what is sent until then is in doubt.
        let first = scope.spawn(|| app.send(replica, &user.key).expect("A answers"));
        eventually(DEADLINE, "a send to be refused at once", || {
            let answer = app.send(replica, &user.key)?;
            ensure!(
                answer.body["code"] == "queue_unavailable",
                "{}",
                answer.text
            );
            anyhow::Ok(())
        });
        let before = memory();
        let began = Instant::now();
        for _ in 0..REFUSED {
            let answer = app.send(replica, &user.key).expect("A answers");
            assert_eq!(
                (answer.status, answer.header("retry-after")),
                (503, "1"),
                "{}",
                answer.text
            );
        }
        let each = began.elapsed() / u32::try_from(REFUSED).expect("few");
        let grown = memory() - before;
        println!(
            "{REFUSED} sends refused in {each:?} each; memory grew by {:.1} MB",
            grown / 1e6
        );
        assert!(each < Duration::from_millis(100), "{each:?}");
        assert!(grown < GROWTH, "{grown} bytes");
        first.join().expect("no panic")
    });
    assert_eq!(in_doubt.status, 503, "{}", in_doubt.text);

    broker.memory_alarm(false).expect("the alarm is over");
    eventually(DEADLINE, "sends to be accepted again", || {
        let answer = app.send(replica, &user.key)?;
        ensure!(answer.status == 202, "{}", answer.text);
        anyhow::Ok(())
    });
    // What was in doubt is told of by its id, and is there once the broker reads on.
    if let Some(id) = in_doubt.body["message_id"].as_str() {
        let row = format!("SELECT count(*) FROM sms_messages WHERE message_id = '{id}'");
        eventually(DEADLINE, "the SMS in doubt", || app.sql(&row) == "1");
    }
}

/// A send: when it began, and what was answered.
struct Sent {
    began: Instant,
    status: u16,
    code: String,
}

/// Sends of the first replica with this outcome at the broker.
fn published(app: &App, outcome: &str) -> f64 {
    let labels = format!("\"{outcome}\",purpose=\"sms publisher\"");
    app.replicas[0].metric(app.http(), "identity_amqp_published_total", &labels)
}

#[test]
fn when_the_queue_is_deleted_under_load_no_returned_message_is_a_202() {
    let (setup, guards) = Setup::shared();
    let (management, vhost) = (guards.1.management().clone(), guards.1.name().to_owned());
    let mut app = App::new(setup, Some(guards));
    app.start_all(1);
    let user = app.create_user("alice");
    app.everywhere(&user.key, Verdict::Accepted);
    // Server B would declare the queue anew.
    app.kill_b();

    let sent = Mutex::new(Vec::new());
    let stop = AtomicBool::new(false);
    let so_far = || sent.lock().expect("no panics").len();
    let deleted = thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    let answer = app.send(&app.replicas[0], &user.key).expect("A answers");
                    let code = answer.body["code"].as_str().unwrap_or_default().to_owned();
                    let status = answer.status;
                    sent.lock().expect("no panics").push(Sent {
                        began,
                        status,
                        code,
                    });
                }
            });
        }
        eventually(DEADLINE, "a load", || so_far() > 500);
        management
            .delete_queue(&vhost, QUEUE)
            .expect("the queue is deleted");
        let deleted = Instant::now();
        // The broker may end the connection with the queue: only on the next one are messages returned.
        eventually(DEADLINE, "returned messages", || {
            let returned = published(&app, "returned");
            ensure!(returned > 400.0, "{returned} returned");
            anyhow::Ok(())
        });
        stop.store(true, Ordering::Relaxed);
        deleted
    });
    let sent = sent.into_inner().expect("no panics");
    let accepted = sent.iter().filter(|it| it.status == 202).count();
    let refused = sent
        .iter()
        .filter(|it| it.code == "queue_unavailable")
        .count();
    let after: Vec<&Sent> = sent.iter().filter(|it| it.began > deleted).collect();
    println!(
        "{accepted} of {} accepted, {} sent after the queue was deleted",
        sent.len(),
        after.len()
    );
    assert!(after.len() > 300, "{}", after.len());
    for it in &sent {
        let before = it.began <= deleted;
        let fits = match (it.status, it.code.as_str()) {
            (503, "queue_unavailable") => true,
            // The queue went with the message: the broker neither confirms nor returns it.
            (202, _) | (503, "not_confirmed") => before,
            _ => false,
        };
        assert!(fits, "{} {}, before: {before}", it.status, it.code);
    }
    let confirmed = published(&app, "confirmed");
    let not_queued: f64 = ["returned", "refused", "not_connected"]
        .map(|outcome| {
            let count = published(&app, outcome);
            println!("{outcome}: {count}");
            count
        })
        .into_iter()
        .sum();
    let counted = |number: usize| f64::from(u32::try_from(number).expect("few"));
    assert!(
        (confirmed - counted(accepted)).abs() < 0.5,
        "{confirmed} confirmed, {accepted} accepted"
    );
    assert!(
        (not_queued - counted(refused)).abs() < 0.5,
        "{not_queued} not queued, {refused} refused"
    );

    // Server B declares it anew, and the replica needs nothing for it.
    app.start_b();
    let replica = &app.replicas[0];
    let id = eventually(DEADLINE, "sends to be accepted again", || {
        let answer = app.send(replica, &user.key)?;
        ensure!(answer.status == 202, "{}", answer.text);
        anyhow::Ok(answer.body["message_id"].as_str().map(str::to_owned))
    });
    let row = format!(
        "SELECT count(*) FROM sms_messages WHERE message_id = '{}'",
        id.expect("message_id")
    );
    eventually(DEADLINE, "its row", || {
        app.try_sql(&row).is_ok_and(|it| it == "1")
    });
}
