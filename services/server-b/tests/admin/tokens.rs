use super::Api;

#[tokio::test]
async fn a_reader_may_read_and_change_nothing() {
    let api = Api::start().await;
    let (user, _) = api.user("alice").await;
    let reader = api.token("dashboards", "reader").await;
    for path in ["/users", user.as_str(), "/audit", "/tokens", "/replicas"] {
        let read = api.call_as(&reader, "GET", path, "").await;
        assert_eq!(read.status.as_u16(), 200, "{path}: {}", read.text);
    }
    let rotate = format!("{user}/rotate-key");
    for (method, path, body) in [
        ("POST", "/users", r#"{"username": "bob"}"#),
        ("PATCH", user.as_str(), r#"{"is_active": false}"#),
        ("POST", rotate.as_str(), ""),
        ("DELETE", user.as_str(), ""),
        ("POST", "/tokens", r#"{"name": "mine", "role": "admin"}"#),
        ("DELETE", "/tokens/dashboards", ""),
        ("POST", "/full-syncs", ""),
        ("POST", "/nowhere", ""),
    ] {
        let refused = api.call_as(&reader, method, path, body).await;
        assert_eq!(
            refused.status.as_u16(),
            403,
            "{method} {path}: {}",
            refused.text
        );
        assert_eq!(refused.body["code"], "forbidden");
    }
    assert_eq!(api.sql("SELECT count(*) FROM users WHERE is_active"), "1");
    assert_eq!(api.sql("SELECT count(*) FROM admin_tokens"), "1");
}

#[tokio::test]
async fn a_revoked_token_is_refused_by_the_next_request_and_an_expired_one_too() {
    let api = Api::start().await;
    let token = api.token("deploy", "admin").await;
    let made = api
        .call_as(&token, "POST", "/users", r#"{"username": "alice"}"#)
        .await;
    assert_eq!(made.status.as_u16(), 201, "{}", made.text);
    api.done(204, "DELETE", "/tokens/deploy", "").await;
    let refused = api.call_as(&token, "GET", "/users", "").await;
    assert_eq!(refused.status.as_u16(), 401, "{}", refused.text);
    // Once more changes nothing, so nothing is told of it.
    let changes = "SELECT count(*) FROM audit_log";
    let before = api.sql(changes);
    api.done(204, "DELETE", "/tokens/deploy", "").await;
    assert_eq!(api.sql(changes), before);
    // Its name stays its own.
    let again = api
        .call("POST", "/tokens", r#"{"name": "deploy", "role": "admin"}"#)
        .await;
    assert_eq!(
        (again.status.as_u16(), &again.body["field"]),
        (409, &"name".into())
    );

    let token = api.token("short", "admin").await;
    api.sql("UPDATE admin_tokens SET expires_at = now() WHERE name = 'short'");
    assert_eq!(
        api.call_as(&token, "GET", "/users", "")
            .await
            .status
            .as_u16(),
        401
    );
    let never = api.call(
        "POST",
        "/tokens",
        r#"{"name": "x", "role": "admin", "expires_at": "2020-01-01T00:00:00Z"}"#,
    );
    assert_eq!(never.await.body["field"], "expires_at");
    for name in ["bootstrap", "", "a b", "ä"] {
        let body = format!(r#"{{"name": "{name}", "role": "reader"}}"#);
        let refused = api.call("POST", "/tokens", &body).await;
        assert_eq!(
            (refused.status.as_u16(), &refused.body["field"]),
            (422, &"name".into())
        );
    }
}

#[tokio::test]
async fn a_token_is_shown_once_and_kept_as_its_hash() {
    let api = Api::start().await;
    let token = api.token("deploy", "admin").await;
    assert!(
        token.starts_with("ist_") && token.len() == 40,
        "prefix and checksum"
    );
    assert_eq!(
        api.call_as(&token, "GET", "/users", "")
            .await
            .status
            .as_u16(),
        200
    );
    let listed = api.done(200, "GET", "/tokens", "").await;
    let listed = &listed["tokens"][0];
    assert_eq!(
        (&listed["name"], &listed["role"]),
        (&"deploy".into(), &"admin".into())
    );
    assert!(listed["last_used_at"].is_string(), "{listed}");
    assert!(!listed.to_string().contains(&token));
    let kept = api.sql("SELECT * FROM admin_tokens");
    assert!(!kept.contains(&token), "{kept}");
    let hash = "SELECT hash = sha256('";
    assert_eq!(api.sql(&format!("{hash}{token}') FROM admin_tokens")), "t");
    // One character off is not a token, and would not be asked for.
    let mut mistyped = token.clone();
    mistyped.replace_range(10..11, if &token[10..11] == "a" { "b" } else { "a" });
    assert_eq!(
        api.call_as(&mistyped, "GET", "/users", "")
            .await
            .status
            .as_u16(),
        401
    );
}
