use serde_json::Value;
use server_b::actor::Actor;
use server_b::retention::{Ages, purge_all};
use server_b::users::{UserChanges, Users};

use super::Api;

/// Actor and action of every entry, the oldest first.
async fn log(api: &Api) -> Vec<(String, String)> {
    let page = api.done(200, "GET", "/audit?limit=1000", "").await;
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let mut entries: Vec<_> = page["entries"]
        .as_array()
        .expect("entries")
        .iter()
        .map(|entry| (text(&entry["actor"]), text(&entry["action"])))
        .collect();
    entries.reverse();
    entries
}

#[tokio::test]
async fn every_change_is_logged_with_its_actor_whichever_way_it_is_made() {
    let api = Api::start().await;
    let ops = api.token("ops", "admin").await;
    let created = api
        .call_as(&ops, "POST", "/users", r#"{"username": "alice"}"#)
        .await;
    let id = created.body["user_id"].as_i64().expect("an id");
    let user = format!("/users/{id}");
    api.done(
        200,
        "POST",
        &format!("{user}/rotate-key"),
        r#"{"overlap_seconds": 60}"#,
    )
    .await;
    let by_hand = Users::new(api.pool.clone(), Actor::command_line());
    let changes = UserChanges {
        daily_quota: Some(7),
        ..UserChanges::default()
    };
    by_hand.update(id, changes, None).await.expect("updated");
    api.sql("UPDATE users SET is_active = false");
    api.sql("UPDATE users SET is_active = false");
    api.done(202, "POST", "/full-syncs", "").await;
    api.done(204, "DELETE", "/tokens/ops", "").await;
    api.done(204, "DELETE", &user, "").await;

    let role = format!("sql:{}", api.sql("SELECT session_user"));
    let hand = Actor::command_line().as_str().to_owned();
    let expected = [
        ("token:bootstrap", "token.created"),
        ("token:ops", "user.created"),
        ("token:bootstrap", "key.updated"),
        ("token:bootstrap", "key.created"),
        (&hand, "user.updated"),
        (&role, "user.updated"),
        ("token:bootstrap", "full_sync.requested"),
        ("token:bootstrap", "token.revoked"),
        ("token:bootstrap", "user.deleted"),
        ("token:bootstrap", "key.deleted"),
        ("token:bootstrap", "key.deleted"),
    ];
    let mut seen = log(&api).await;
    // The cascade comes before or after its user.
    seen[8..].sort_by_key(|(_, action)| std::cmp::Reverse(action.clone()));
    let seen: Vec<_> = seen.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    assert_eq!(seen, expected);

    let updates = api
        .done(200, "GET", "/audit?limit=1&user_id=1&actor=", "")
        .await;
    assert_eq!(updates["entries"], serde_json::json!([]));
    let page = api
        .done(200, "GET", &format!("/audit?actor={role}"), "")
        .await;
    let entry = &page["entries"][0];
    assert_eq!(entry["user_id"], id);
    assert_eq!(
        (&entry["before"]["is_active"], &entry["after"]["is_active"]),
        (&true.into(), &false.into())
    );
    assert_eq!(entry["after"]["daily_quota"], 7);
}

#[tokio::test]
async fn no_secret_is_in_the_log() {
    let api = Api::start().await;
    let token = api.token("ops", "admin").await;
    let (user, key) = api.user("alice").await;
    let rotated = api
        .done(
            200,
            "POST",
            &format!("{user}/rotate-key"),
            r#"{"overlap_seconds": 60}"#,
        )
        .await;
    let rotated = rotated["api_key"].as_str().expect("a key").to_owned();
    let of_keys =
        api.sql("SELECT encode(digest, 'hex') || ' ' || encode(sealed, 'hex') FROM api_keys");
    let of_tokens = api.sql("SELECT encode(hash, 'hex') FROM admin_tokens");
    api.sql("UPDATE api_keys SET sealed = NULL; DELETE FROM users; DELETE FROM admin_tokens");
    let log = api.sql("SELECT audit_log::text FROM audit_log");
    let secrets = of_keys
        .split_whitespace()
        .chain(of_tokens.split_whitespace());
    for secret in secrets.chain([token.as_str(), &key, &rotated]) {
        assert!(!log.contains(secret), "{secret} is in\n{log}");
    }
    assert!(
        log.contains("key.deleted") && log.contains("token.deleted"),
        "{log}"
    );
}

#[tokio::test]
async fn an_aborted_change_leaves_no_entry_and_a_traced_one_its_trace() {
    let api = Api::start().await;
    api.sql("BEGIN; INSERT INTO users (username) VALUES ('alice'); ROLLBACK");
    assert_eq!(api.sql("SELECT count(*) FROM audit_log"), "0");
    api.sql(
        "BEGIN; SET LOCAL identity_sync.traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
         INSERT INTO users (username) VALUES ('alice'); COMMIT",
    );
    let page = api.done(200, "GET", "/audit", "").await;
    assert_eq!(
        page["entries"][0]["trace_id"],
        "0af7651916cd43dd8448eb211c80319c"
    );
    assert!(
        api.database
            .sql("UPDATE audit_log SET actor = 'nobody'")
            .is_err()
    );
}

#[tokio::test]
async fn pages_and_filters_show_each_entry_once() {
    let api = Api::start().await;
    api.sql("INSERT INTO users (username) SELECT 'user-' || n FROM generate_series(1, 25) n");
    let (mut path, mut seen) = ("/audit?limit=10".to_owned(), Vec::new());
    loop {
        let page = api.done(200, "GET", &path, "").await;
        let entries = page["entries"].as_array().expect("entries").iter();
        seen.extend(entries.map(|entry| entry["audit_id"].as_i64().expect("a number")));
        let Some(cursor) = page["next_cursor"].as_i64() else {
            break;
        };
        path = format!("/audit?limit=10&cursor={cursor}");
    }
    assert_eq!(seen.len(), 25);
    assert!(seen.is_sorted_by(|one, next| one > next), "{seen:?}");
    for (query, count) in [
        ("user_id=3", 1),
        ("from_time=2020-01-01T00:00:00Z", 25),
        ("to_time=2020-01-01T00:00:00Z", 0),
        ("actor=nobody", 0),
    ] {
        let page = api.done(200, "GET", &format!("/audit?{query}"), "").await;
        assert_eq!(
            page["entries"].as_array().map(Vec::len),
            Some(count),
            "{query}"
        );
    }
    for query in ["limit=0", "user_id=x", "from_time=today", "actor=%00"] {
        api.done(422, "GET", &format!("/audit?{query}"), "").await;
    }
}

#[tokio::test]
async fn entries_older_than_the_limit_are_deleted_and_no_others() {
    let api = Api::start().await;
    api.sql(
        "INSERT INTO audit_log (actor, action, at)
         SELECT 'a', 'old', now() - interval '11 days' FROM generate_series(1, 12000);
         INSERT INTO audit_log (actor, action, at) SELECT 'a', 'new', now() - interval '9 days'
         FROM generate_series(1, 6000)",
    );
    let ages = Ages {
        sms: 0,
        audit_log: 10,
    };
    purge_all(&api.pool, ages).await.expect("purged");
    assert_eq!(
        api.sql("SELECT count(*) FROM audit_log WHERE action = 'old'"),
        "0"
    );
    assert_eq!(
        api.sql("SELECT count(*) FROM audit_log WHERE action = 'new'"),
        "6000"
    );
}
