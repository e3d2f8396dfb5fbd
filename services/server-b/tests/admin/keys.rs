use std::time::Duration;

use server_b::actor::Actor;
use server_b::audit::{Finding, audit};
use server_b::relay::numbering;
use server_b::reseal::{self, Outcome};
use server_b::wire_image::KeyForm;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Api, FIRST, SECOND, ring};

/// In so long, as of RFC 3339.
fn later(time: Duration) -> String {
    let at = OffsetDateTime::now_utc() + time;
    at.format(&Rfc3339).expect("a time")
}

#[tokio::test]
async fn keys_are_listed_without_themselves_and_revoked_one_by_one() {
    let api = Api::start().await;
    let (user, key) = api.user("alice").await;
    api.done(
        200,
        "POST",
        &format!("{user}/rotate-key"),
        r#"{"overlap_seconds": 600}"#,
    )
    .await;
    api.sql("UPDATE api_keys SET last_used_at = '2026-01-02' WHERE expires_at IS NOT NULL");
    let keys = format!("{user}/keys");
    let listed = api.done(200, "GET", &keys, "").await;
    assert!(!listed.to_string().contains(&key), "{listed}");
    let (current, replaced) = (&listed["keys"][0], &listed["keys"][1]);
    assert_eq!(
        (&current["current"], &replaced["current"]),
        (&true.into(), &false.into())
    );
    assert_eq!(replaced["prefix"], key[..8]);
    assert!(
        replaced["last_used_at"]
            .as_str()
            .is_some_and(|at| at.starts_with("2026-01-0"))
    );
    assert!(
        replaced["expires_at"].is_string() && current["expires_at"].is_null(),
        "{listed}"
    );

    api.done(204, "DELETE", &format!("{keys}/{}", replaced["key_id"]), "")
        .await;
    api.done(404, "DELETE", &format!("{keys}/{}", replaced["key_id"]), "")
        .await;
    api.done(404, "GET", "/users/999/keys", "").await;
    assert_eq!(api.sql("SELECT count(*) FROM api_keys"), "1");
}

#[tokio::test]
async fn a_key_with_an_expiry_goes_out_with_it_and_is_shown() {
    let api = Api::start().await;
    let expiry = later(Duration::from_hours(1));
    let body = format!(r#"{{"username": "alice", "key_expires_at": "{expiry}"}}"#);
    let created = api.done(201, "POST", "/users", &body).await;
    assert!(created["key_prefix"].is_string(), "{created}");
    let image = api.sql("SELECT new_image -> 'keys' -> 0 ->> 'expires_at_us' FROM outbox");
    assert!(image.parse::<i64>().is_ok_and(|at| at > 0), "{image}");

    // An overlap makes no key last longer than it would have.
    let rotate = format!("/users/{}/rotate-key", created["user_id"]);
    for (overlap, at_most) in [(7200, 3600), (60, 60)] {
        let body = format!(
            r#"{{"overlap_seconds": {overlap}, "key_expires_at": "{}"}}"#,
            later(Duration::from_hours(9))
        );
        api.done(200, "POST", &rotate, &body).await;
        let oldest = "SELECT extract(epoch FROM expires_at - now())::int FROM api_keys ORDER BY key_id LIMIT 1";
        let left: i64 = api.sql(oldest).parse().expect("seconds");
        assert!((1..=at_most).contains(&left), "{left}");
    }
    assert_eq!(
        api.sql("SELECT count(*) FROM api_keys WHERE expires_at IS NULL"),
        "0"
    );
    for wrong in ["2020-01-01T00:00:00Z", "9999-06-01T00:00:00Z", "tomorrow"] {
        let body = format!(r#"{{"username": "bob", "key_expires_at": "{wrong}"}}"#);
        let refused = api.done(422, "POST", "/users", &body).await;
        assert_eq!(refused["field"], "key_expires_at");
    }
}

#[tokio::test]
async fn resealing_publishes_nothing_and_leaves_the_digest_equal() {
    let api = Api::start().await;
    for number in 0..1_200 {
        api.user(&format!("user-{number}")).await;
    }
    let term = numbering::take_term(&api.pool).await.expect("a term").term;
    while let Some(batch) = numbering::number(&api.pool, term, 500)
        .await
        .expect("numbered")
        .batch
    {
        numbering::delete(&api.pool, &batch.rows)
            .await
            .expect("deleted");
    }
    let versions = "SELECT md5(string_agg(user_id || ' ' || version || ' ' || updated_at, ',' ORDER BY user_id)) FROM users";
    let before = api.sql(versions);

    let both = ring(&format!("{SECOND}\n{FIRST}"));
    let actor = Actor::command_line();
    let (mut told, mut runs) = (Vec::new(), Vec::new());
    // Two side by side, and one after them.
    let one = reseal::reseal(&api.pool, &both, &actor, |done, total| {
        told.push((done, total));
    });
    let two = reseal::reseal(&api.pool, &both, &actor, |_, _| {});
    let (one, two) = tokio::join!(one, two);
    runs.extend([one.expect("resealed"), two.expect("resealed")]);
    runs.push(
        reseal::reseal(&api.pool, &both, &actor, |_, _| {})
            .await
            .expect("resealed"),
    );
    assert_eq!(
        runs.iter().map(|run| run.resealed).sum::<u64>(),
        1_200,
        "{runs:?}"
    );
    assert_eq!(runs[2], Outcome::default());
    assert!(told.iter().all(|(_, total)| *total == 1_200), "{told:?}");

    assert_eq!(api.sql("SELECT count(*) FROM outbox"), "0", "no event");
    assert_eq!(api.sql(versions), before, "no version");
    assert_eq!(audit(&api.pool).await.expect("an audit"), Finding::Equal);
    let sealed = reseal::sealed_with(&api.pool).await.expect("counts");
    assert_eq!(sealed.len(), 1);
    assert_eq!(
        (sealed[0].key_id, sealed[0].api_keys, sealed[0].events),
        (Some(2), 1_200, 0)
    );
    assert_eq!(
        api.sql("SELECT count(*) FROM audit_log WHERE action = 'key.resealed'"),
        "1200"
    );

    // The next change carries the key as it is sealed now: the first sealing key may go.
    api.sql("UPDATE users SET daily_quota = 5 WHERE username = 'user-7'");
    let batch = numbering::number(&api.pool, term, 500)
        .await
        .expect("numbered")
        .batch;
    let image = batch
        .expect("one event")
        .rows
        .remove(0)
        .new_image
        .expect("an image");
    let wire = image
        .0
        .record(KeyForm::Opened(&ring(SECOND)))
        .expect("a record");
    let key = serde_json::to_value(wire.api_key).expect("JSON");
    assert!(
        key.as_str().is_some_and(|key| key.starts_with("isk_")),
        "opened by the second"
    );
}

#[tokio::test]
async fn a_key_that_no_sealing_key_opens_is_counted_and_left_as_it_is() {
    let api = Api::start().await;
    api.user("alice").await;
    api.user("bob").await;
    api.sql("UPDATE api_keys SET sealed = set_byte(sealed, 0, 9) WHERE key_id = 1");
    let both = ring(&format!("{SECOND}\n{FIRST}"));
    let actor = Actor::command_line();
    let run = reseal::reseal(&api.pool, &both, &actor, |_, _| {});
    let outcome = run.await.expect("the others are resealed");
    assert_eq!((outcome.resealed, outcome.unopened), (1, 1));
    assert_eq!(
        api.sql("SELECT get_byte(sealed, 0) FROM api_keys ORDER BY key_id"),
        "9\n2"
    );
}

#[tokio::test]
async fn a_key_that_is_sealed_for_the_first_time_or_no_more_is_an_event() {
    let api = Api::start().await;
    api.user("alice").await;
    let events = || api.sql("SELECT count(*) FROM outbox");
    assert_eq!(events(), "1");
    api.sql("UPDATE api_keys SET sealed = NULL");
    assert_eq!(events(), "2");
}
