//! The relay's leader dies, or goes on without its lock, while another takes over.

mod world;

use anyhow::ensure;
use test_support::app::DEADLINE;
use test_support::{Link, eventually};

use self::world::{NUMBERED, World};
use crate::count;

#[test]
fn a_leader_killed_between_numbering_and_publishing_leaves_every_cache_equal() {
    let _alone = crate::alone();
    let mut world = World::start();
    let kills = count(10, 2);
    let mut unpublished = 0;
    for _ in 0..kills {
        let silence = world.number_into_silence();
        unpublished += silence.rows;
        // The broker has got nothing since.
        assert_eq!(world.leader.broker.bytes_to_server(), silence.sent);
        world.replace_leader(silence.rows);
    }
    let outcome = world.judge();
    println!(
        "2 leader killed between numbering and publishing: {kills} times, {unpublished} changes numbered and not \
         published; {outcome}"
    );
}

#[test]
fn a_leader_killed_between_confirm_and_delete_leaves_every_cache_equal() {
    let _alone = crate::alone();
    let mut world = World::start();
    let kills = count(10, 2);
    let mut confirmed = 0;
    for _ in 0..kills {
        let silence = world.number_into_silence();
        let before = world.leader.confirmed(&world.app);
        // Locked rows can be published, but not deleted.
        let rows = world.hold("SELECT FROM outbox WHERE sequence IS NOT NULL FOR UPDATE");
        world.leader.broker.set_link(Link::Up);
        let deleting = eventually(DEADLINE, "a DELETE that waits", || {
            let pid = world.app.sql(
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database()
                 AND wait_event_type = 'Lock' AND query LIKE '%DELETE FROM outbox USING lazily%'",
            );
            (!pid.is_empty()).then_some(pid)
        });
        assert_eq!(world.leader.confirmed(&world.app) - before, silence.rows);
        world.leader.node.process.kill9().expect("B can be killed");
        // Its session would still delete, once it gets the lock.
        let _ = world
            .app
            .sql(&format!("SELECT pg_terminate_backend({deleting}, 5000)"));
        assert_eq!(world.app.sql(NUMBERED), silence.rows.to_string());
        drop(rows);
        confirmed += silence.rows;
        world.replace_leader(silence.rows);
    }
    let outcome = world.judge();
    assert!(outcome.repeated >= confirmed, "{outcome}");
    println!(
        "2 leader killed between confirm and delete: {kills} times, {confirmed} changes confirmed and not deleted; \
         {outcome}"
    );
}

#[test]
fn a_leader_without_its_lock_that_numbers_on_is_fenced() {
    let _alone = crate::alone();
    let mut world = World::start();
    let (rounds, mut fenced) = (count(20, 4), 0);
    // Whether it is fenced or finds its connection lost first is a race; both must do no harm.
    for round in 0.. {
        let term = world.kill_lock_connection();
        let error = world.old_leader_resigns(term).unwrap_or_default();
        fenced += u64::from(error.contains("fenced"));
        if round + 1 >= rounds && fenced > 0 {
            let outcome = world.judge();
            println!(
                "2 leader that numbers on without its lock: {} times, fenced {fenced} times; {outcome}",
                round + 1
            );
            return;
        }
        assert!(round < 100, "no leader was fenced");
    }
}

#[test]
fn what_a_leader_without_its_lock_publishes_late_changes_no_cache() {
    let _alone = crate::alone();
    let mut world = World::start();
    let (rounds, mut late) = (count(10, 2), 0);
    for _ in 0..rounds {
        let silence = world.number_into_silence();
        let term = world.kill_lock_connection();
        // The standby publishes the same numbers and many after them; then the old leader's copies come.
        eventually(DEADLINE, "the standby to be far ahead", || {
            let status = world.standby.node.status(world.app.http());
            let sequence = status["relay"]["sequence"].as_i64().unwrap_or(0);
            ensure!(sequence > silence.last + 100, "{status}");
            Ok(())
        });
        world.leader.broker.set_link(Link::Up);
        let _ = world.old_leader_resigns(term);
        late += silence.rows;
    }
    let outcome = world.judge();
    assert!(outcome.late >= late, "{outcome}");
    println!(
        "2 leader that publishes late without its lock: {rounds} times, {late} changes late; {outcome}"
    );
}
