//! Changes over HTTP that are meant for one version of a user.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header};
use serde_json::Value;
use server_b::MIGRATOR;
use server_b::api::{AdminTokenArgs, ApiState, router};
use server_b::keys::{ApiKeyMode, KeyArgs, KeyRing};
use service_runtime::config::DatabaseArgs;
use service_runtime::database;
use test_support::{TestDatabase, TestServers};
use tower::ServiceExt;

const TOKEN: &str = "0123456789abcdef";
const USERS: &str = "/admin/v1/users";

/// What the API answered: status, `ETag`, body.
struct Answer {
    status: StatusCode,
    tag: String,
    body: Value,
}

struct Api {
    router: Router,
    _database: TestDatabase,
}

impl Api {
    async fn start() -> Self {
        let guard = TestServers::shared().fresh_database();
        let args = DatabaseArgs {
            database_url: guard.url().to_owned().into(),
            database_max_connections: 4,
        };
        let pool = database::pool("test", &args).expect("a valid URL");
        database::migrate(&pool, &MIGRATOR).await.expect("migrated");
        let keys = KeyArgs {
            api_key_mode: ApiKeyMode::Digest,
            key_sealing_key_file: None,
            key_sealing_key: None,
        };
        let token = AdminTokenArgs {
            admin_token: Some(TOKEN.into()),
            admin_token_file: None,
        };
        let state = ApiState {
            pool,
            keys: KeyRing::from_args(&keys).expect("digest mode needs no key"),
            admin_token: token.token().expect("long enough"),
        };
        Self {
            router: router(state).expect("the description is JSON"),
            _database: guard,
        }
    }

    async fn call(&self, method: &str, path: &str, if_match: &str, body: &str) -> Answer {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::AUTHORIZATION, format!("Bearer {TOKEN}"))
            .header(header::CONTENT_TYPE, "application/json");
        if !if_match.is_empty() {
            request = request.header(header::IF_MATCH, if_match);
        }
        let request = request.body(Body::from(body.to_owned())).expect("valid");
        let response = self
            .router
            .clone()
            .oneshot(request)
            .await
            .expect("infallible");
        let (parts, body) = response.into_parts();
        let tag = parts.headers.get(header::ETAG);
        let body = to_bytes(body, 1 << 20).await.expect("a short body");
        Answer {
            status: parts.status,
            tag: tag.map_or_else(String::new, |tag| tag.to_str().expect("text").to_owned()),
            body: serde_json::from_slice(&body).unwrap_or_default(),
        }
    }
}

#[tokio::test]
async fn a_change_meant_for_another_version_is_refused_and_changes_nothing() {
    let api = Api::start().await;
    let created = api
        .call("POST", USERS, "", r#"{"username": "alice"}"#)
        .await;
    assert_eq!(created.status, StatusCode::CREATED, "{}", created.body);
    let first = created.tag;
    assert_eq!(first, format!("\"{}\"", created.body["version"]));
    let alice = format!("{USERS}/{}", created.body["user_id"]);

    let quota = |quota: u32| format!(r#"{{"daily_quota": {quota}}}"#);
    let changed = api.call("PATCH", &alice, &first, &quota(7)).await;
    assert_eq!(changed.status, StatusCode::OK, "{}", changed.body);
    assert_ne!(changed.tag, first);

    for (method, path, body) in [
        ("PATCH", alice.clone(), quota(9)),
        ("POST", format!("{alice}/rotate-key"), "{}".to_owned()),
        ("DELETE", alice.clone(), String::new()),
    ] {
        let late = api.call(method, &path, &first, &body).await;
        assert_eq!(late.status, StatusCode::PRECONDITION_FAILED, "{method}");
        assert_eq!(late.body["code"], "version_changed", "{method}");
    }
    let read = api.call("GET", &alice, "", "").await;
    assert_eq!(
        (read.tag.as_str(), &read.body["daily_quota"]),
        (changed.tag.as_str(), &Value::from(7))
    );

    let rotate = format!("{alice}/rotate-key");
    let rotated = api.call("POST", &rotate, &read.tag, "{}").await;
    assert_eq!(rotated.status, StatusCode::OK, "{}", rotated.body);
    let gone = api.call("DELETE", &alice, &rotated.tag, "").await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT, "{}", gone.body);
    let unknown = api.call("PATCH", &alice, &rotated.tag, &quota(1)).await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn without_if_match_the_last_change_wins() {
    let api = Api::start().await;
    let created = api.call("POST", USERS, "", r#"{"username": "bob"}"#).await;
    let bob = format!("{USERS}/{}", created.body["user_id"]);
    for quota in [1, 2] {
        let body = format!(r#"{{"daily_quota": {quota}}}"#);
        let changed = api.call("PATCH", &bob, "", &body).await;
        assert_eq!(changed.body["daily_quota"], quota);
    }
}
