//! `server-b dead-letters …`.

use serde_json::{Value, json};
use test_support::app::{App, DEADLINE, Setup, Verdict};
use test_support::eventually;

const GARBAGE: &str = r#"{"user_id": "not a number", "body": "canary text"#;
const FIRST: &str = "01900000-0000-7000-8000-000000000001";
const SECOND: &str = "01900000-0000-7000-8000-000000000002";

/// What the command prints, and whether it succeeded.
fn dead_letters(app: &App, arguments: &[&str]) -> (bool, String) {
    app.cli(&[&["dead-letters"], arguments].concat())
}

/// The list once it is so long, and what was printed.
fn listed(app: &App, count: usize) -> (Vec<Value>, String) {
    eventually(DEADLINE, "the dead letters", || {
        let (_, text) = dead_letters(app, &["list", "--output", "json"]);
        let letters: Vec<Value> = serde_json::from_str(&text)?;
        anyhow::ensure!(letters.len() == count, "{text}");
        Ok((letters, text))
    })
}

#[test]
fn dead_letters_are_listed_without_their_content_shown_whole_and_purged_one_by_one() {
    let (setup, guards) = Setup::shared();
    let (management, vhost) = (guards.1.management().clone(), guards.1.name().to_owned());
    let mut app = App::new(setup, Some(guards));
    app.start_b();
    eventually(DEADLINE, "server B's queue", || {
        let queue = management.queue(&vhost, "sms_outbound_queue")?;
        anyhow::ensure!(queue.is_some(), "not declared yet");
        Ok(())
    });
    for id in [FIRST, SECOND] {
        let properties = json!({"type": "sms.submitted", "message_id": id});
        management
            .publish(
                &vhost,
                "",
                "sms_outbound_queue",
                &properties,
                GARBAGE.as_bytes(),
            )
            .expect("the broker takes it");
    }

    let (letters, text) = listed(&app, 2);
    assert!(!text.contains("canary"), "{text}");
    for (letter, id) in letters.iter().zip([FIRST, SECOND]) {
        assert_eq!(letter["message_id"], id);
        assert_eq!(letter["type"], "sms.submitted");
        assert!(letter["dead_since"].is_string(), "{letter}");
        assert!(
            letter["reason"].as_str().is_some_and(|it| !it.is_empty()),
            "{letter}"
        );
    }

    let mut letter = Value::Null;
    // What one command had in hand is there for the next.
    for _ in 0..5 {
        let (shown, text) = dead_letters(&app, &["show", SECOND]);
        assert!(shown, "{text}");
        letter = serde_json::from_str(&text).expect("JSON");
    }
    assert_eq!(letter["body"], GARBAGE);
    assert_eq!(letter["source"], "sms_outbound_queue");
    assert_eq!(letter["headers"]["x-dead-reason"], letter["reason"]);

    let (purged, text) = dead_letters(&app, &["purge", FIRST]);
    assert!(purged && text.contains("1 purged"), "{text}");
    let (left, _) = listed(&app, 1);
    assert_eq!(left[0]["message_id"], SECOND);

    let (purged, text) = dead_letters(&app, &["purge", FIRST]);
    assert!(
        !purged && text.contains(&format!("no dead letter has the message_id {FIRST}")),
        "{text}"
    );
    let (purged, text) = dead_letters(&app, &["purge"]);
    assert!(!purged && text.contains("--all"), "{text}");
    let (purged, text) = dead_letters(&app, &["purge", "--all"]);
    assert!(purged && text.contains("1 purged"), "{text}");
    let _ = listed(&app, 0);
}

/// More than a quorum queue takes acknowledgements of at a time.
#[test]
fn of_many_dead_letters_none_comes_back_that_was_purged() {
    const MANY: usize = 300;
    let (setup, guards) = Setup::shared();
    let (management, vhost) = (guards.1.management().clone(), guards.1.name().to_owned());
    let mut app = App::new(setup, Some(guards));
    app.start_b();
    let _ = listed(&app, 0);
    for number in 0..MANY {
        let id = format!("01900000-0000-7000-8000-{number:012}");
        let properties = json!({"type": "sms.submitted", "message_id": id});
        let queue = "sms_outbound_queue.dead";
        let routed = management.publish(&vhost, "", queue, &properties, GARBAGE.as_bytes());
        assert!(routed.expect("the broker takes it"), "no queue");
    }
    let (purged, text) = dead_letters(&app, &["purge", "--all"]);
    assert!(purged && text.contains("300 purged"), "{text}");
    let _ = listed(&app, 0);
}

#[test]
fn a_requeued_dead_letter_is_stored_once_what_it_was_refused_for_is_mended() {
    let (setup, guards) = Setup::shared();
    let (management, vhost) = (guards.1.management().clone(), guards.1.name().to_owned());
    let mut app = App::new(setup, Some(guards));
    app.start_all(1);
    let user = app.create_user("alice");
    app.everywhere(&user.key, Verdict::Accepted);
    let _ = app.sql("ALTER TABLE sms_messages ADD CONSTRAINT fault CHECK (body <> 'refused')");
    let body = json!({"to": "+14155550123", "body": "refused"});
    let answer = app.replicas[0]
        .send(app.http(), &user.key, &body)
        .expect("A answers");
    assert_eq!(answer.status, 202, "{}", answer.text);
    let message_id = answer.body["message_id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let garbage = json!({"type": "sms.submitted", "message_id": FIRST});
    management
        .publish(
            &vhost,
            "",
            "sms_outbound_queue",
            &garbage,
            GARBAGE.as_bytes(),
        )
        .expect("the broker takes it");
    let _ = listed(&app, 2);

    // Too early: each is set aside again, once.
    let (requeued, text) = dead_letters(&app, &["requeue", "--all"]);
    assert!(requeued && text.contains("2 requeued"), "{text}");
    let (letters, _) = listed(&app, 2);
    assert!(
        letters
            .iter()
            .any(|it| it["message_id"] == message_id.as_str()),
        "{letters:?}"
    );

    let _ = app.sql("ALTER TABLE sms_messages DROP CONSTRAINT fault");
    let (requeued, text) = dead_letters(&app, &["requeue", &message_id]);
    assert!(requeued && text.contains("1 requeued"), "{text}");
    eventually(DEADLINE, "the SMS to be stored", || {
        app.sql("SELECT message_id FROM sms_messages").trim() == message_id
    });
    let (letters, _) = listed(&app, 1);
    assert_eq!(letters[0]["message_id"], FIRST);
}
