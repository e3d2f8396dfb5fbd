//! A server B that dies again and again between the hand-over and its commit.

use std::collections::{HashMap, HashSet};

use test_support::app::DEADLINE;
use test_support::eventually;

use super::b_gateway::{Behaviour, Gateway};
use super::b_world::World;

const ROUNDS: usize = 4;
const SMS: u64 = 5;

/// Kills server B while the gateway has sent the SMS and holds its answers; the window is hit each time. Gives how often
/// each SMS went on the air, and the hand-overs that server B counted as made again.
fn killed_in_the_window(gateway: &Gateway) -> (HashMap<String, usize>, u64) {
    gateway.behave(Behaviour::HoldAnswer);
    let mut world = World::with_patience(gateway);
    let user = world.user("alice", 1000);
    let (mut counted, mut number, mut asked_before) = (0, 0, 0);
    for round in 0..ROUNDS {
        for _ in 0..SMS {
            world.send(user, number);
            number += 1;
        }
        eventually(DEADLINE, "all open SMS at the gateway", || {
            let asked = gateway.asked();
            let asked = asked[asked_before..].iter();
            let tokens: HashSet<_> = asked.map(|it| &it.headers["idempotency-key"]).collect();
            tokens.len() as u64 == number
        });
        counted += world.metric("identity_sms_handed_over_again_total", "");
        let _ = world.kill_b();
        assert_eq!(
            world.sql("SELECT count(*) FROM sms_messages WHERE status = 'sending'"),
            number.to_string(),
            "nothing may be committed between the hand-over and the kill"
        );
        // A minute later.
        let _ =
            world.sql("UPDATE sms_messages SET next_attempt_at = now() WHERE status = 'sending'");
        if round + 1 == ROUNDS {
            gateway.behave(Behaviour::Accept);
        }
        asked_before = gateway.asked().len();
        world.start_b();
        world.wait_ready();
    }
    let sent = "SELECT count(*) FROM sms_messages WHERE status = 'sent'";
    world.until(sent, &number.to_string());
    counted += world.metric("identity_sms_handed_over_again_total", "");
    world.until("SELECT segments FROM sms_usage", &number.to_string());
    let mut on_air = HashMap::new();
    for token in gateway.tokens_sent() {
        *on_air.entry(token).or_default() += 1;
    }
    assert_eq!(on_air.len() as u64, number, "nothing is lost");
    (on_air, counted)
}

#[test]
fn a_gateway_that_knows_the_token_sends_each_sms_once_though_server_b_is_killed_in_the_window() {
    let gateway = Gateway::start("first");
    let (on_air, again) = killed_in_the_window(&gateway);
    assert!(on_air.values().all(|times| *times == 1), "{on_air:?}");
    assert!(again > 0, "the window must be hit");
}

#[test]
fn a_gateway_that_ignores_the_token_sends_no_more_duplicates_than_are_counted() {
    let gateway = Gateway::without_tokens("first");
    let (on_air, again) = killed_in_the_window(&gateway);
    let duplicates: usize = on_air.values().map(|times| times - 1).sum();
    println!("{duplicates} duplicates, {again} counted");
    assert!(duplicates > 0, "the window must be hit");
    assert_eq!(duplicates as u64, again);
}
