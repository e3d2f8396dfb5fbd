//! What the API answers without a database: its address leads nowhere.

use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode, header};
use secrecy::ExposeSecret;
use serde_json::Value;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tower::ServiceExt;

use super::auth::AdminTokenArgs;
use super::{ApiState, problems, router};
use crate::keys::{self, ApiKeyMode, KeyArgs, KeyRing};
use crate::token::Token;

const TOKEN: &str = "0123456789abcdef";

fn token(text: &str) -> anyhow::Result<Token> {
    let args = AdminTokenArgs {
        admin_token: Some(text.into()),
        admin_token_file: None,
    };
    args.token()
}

fn api() -> Router {
    let pool = PgPoolOptions::new()
        .acquire_timeout(Duration::from_millis(200))
        .connect_lazy("postgres://nobody@127.0.0.1:1/none");
    api_on(pool.expect("a valid URL"))
}

fn api_on(pool: PgPool) -> Router {
    let keys = KeyRing::from_args(&KeyArgs {
        api_key_mode: ApiKeyMode::Digest,
        key_sealing_key_file: None,
        key_sealing_key: None,
    });
    let router = router(ApiState {
        pool,
        keys: keys.expect("digest mode needs no key"),
        admin_token: token(TOKEN).expect("long enough"),
    });
    router.expect("the description is JSON")
}

async fn answer(request: Request<Body>) -> (StatusCode, HeaderMap, Value) {
    let response = api().oneshot(request).await.expect("infallible");
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, 1 << 20).await.expect("a short body");
    let problem = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(
        parts.headers[header::CONTENT_TYPE],
        "application/problem+json"
    );
    (parts.status, parts.headers, problem)
}

async fn send(method: &str, path: &str, body: impl Into<Body>) -> (StatusCode, HeaderMap, Value) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::AUTHORIZATION, format!("Bearer {TOKEN}"))
        .header(header::CONTENT_TYPE, "application/json");
    answer(request.body(body.into()).expect("a valid request")).await
}

/// Status, code and field of the answer to a `POST /users`.
async fn create(body: &str) -> (u16, String, String) {
    let (status, _, problem) = send("POST", "/admin/v1/users", body.to_owned()).await;
    let text = |member: &str| problem[member].as_str().unwrap_or_default().to_owned();
    (status.as_u16(), text("code"), text("field"))
}

#[test]
fn the_token_matches_only_itself_and_is_not_shown() {
    let token = token(TOKEN).expect("long enough");
    assert!(token.matches(TOKEN));
    assert!(!token.matches("0123456789abcdeF"));
    assert!(!token.matches("0123456789abcdef0"));
    assert!(!token.matches(""));
    assert_eq!(format!("{token:?}"), "Token(…)");
}

#[test]
fn a_short_or_missing_token_is_refused_by_name() {
    for short in ["", "0123456789abcde"] {
        let error = token(short).expect_err("too short").to_string();
        assert!(error.contains("ADMIN_TOKEN"), "{error}");
        assert!(short.is_empty() || !error.contains(short), "{error}");
    }
}

#[tokio::test]
async fn a_token_file_may_end_with_a_newline() {
    let file = tempfile::NamedTempFile::new().expect("temporary file");
    std::fs::write(file.path(), format!("{TOKEN}\n")).expect("writable");
    let args = AdminTokenArgs {
        admin_token: None,
        admin_token_file: Some(file.path().to_owned()),
    };
    assert!(args.token().expect("long enough").matches(TOKEN));
}

#[tokio::test]
async fn without_the_token_every_path_answers_401_with_a_challenge() {
    for (path, authorization) in [
        ("/admin/v1/users", None),
        ("/nowhere", None),
        ("/admin/v1/users", Some("Bearer wrong-wrong-wrong")),
        ("/admin/v1/users", Some("Basic MDEyMzQ1Njc4OWFiY2RlZg==")),
    ] {
        let mut request = Request::builder().uri(path);
        if let Some(value) = authorization {
            request = request.header(header::AUTHORIZATION, value);
        }
        let request = request.body(Body::empty()).expect("a valid request");
        let (status, headers, problem) = answer(request).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        assert_eq!(headers[header::WWW_AUTHENTICATE], "Bearer");
        assert_eq!(problem["code"], "unauthorized");
    }
}

#[tokio::test]
async fn a_token_that_the_database_does_not_find_in_time_is_unavailable() {
    // Takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("an address");
    let pool = PgPoolOptions::new()
        .acquire_timeout(Duration::from_mins(10))
        .connect_lazy(&format!("postgres://nobody@{address}/none"));
    let token = keys::draw("ist_");
    let request = Request::builder().uri("/admin/v1/users").header(
        header::AUTHORIZATION,
        format!("Bearer {}", token.expose_secret()),
    );
    let request = request.body(Body::empty()).expect("a valid request");
    let answered = api_on(pool.expect("a valid URL")).oneshot(request);
    let response = tokio::time::timeout(Duration::from_mins(1), answered).await;
    let response = response.expect("in time").expect("infallible");
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.headers().contains_key(header::RETRY_AFTER));
}

#[tokio::test]
async fn an_unknown_path_is_404_and_a_wrong_method_405_with_allow() {
    let (status, _, problem) = send("GET", "/admin/v1/nothing", "").await;
    assert_eq!(
        (status.as_u16(), &problem["code"]),
        (404, &"not_found".into())
    );
    for (method, path, expected) in [
        ("POST", "/admin/v1/nothing?limit=1", 404),
        ("PUT", "/admin/v1/users?limit=1", 405),
        ("TRACE", "/admin/v1/audit?limit=1", 405),
    ] {
        let (status, ..) = send(method, path, "").await;
        assert_eq!(status, expected, "{method} {path}");
    }
    let (status, headers, problem) = send("PUT", "/admin/v1/users/1", "").await;
    assert_eq!(
        (status.as_u16(), &problem["code"]),
        (405, &"method_not_allowed".into())
    );
    let allow = headers[header::ALLOW].to_str().expect("text");
    for method in ["GET", "PATCH", "DELETE"] {
        assert!(allow.contains(method), "{allow}");
    }
    let (status, _, problem) = send("GET", "/admin/v1/users/alice", "").await;
    assert_eq!(
        (status.as_u16(), &problem["code"]),
        (404, &"user_not_found".into())
    );
    let (status, _, problem) = send("GET", "/admin/v1/full-syncs/latest", "").await;
    assert_eq!(
        (status.as_u16(), &problem["code"]),
        (404, &"sync_not_found".into())
    );
    let (status, _, problem) = send("GET", "/admin/v1/sms/latest", "").await;
    assert_eq!(
        (status.as_u16(), &problem["code"]),
        (404, &"sms_not_found".into())
    );
}

#[tokio::test]
async fn a_field_that_is_not_acceptable_is_named() {
    let long = format!(r#"{{"username": "{}"}}"#, "a".repeat(151));
    for (body, field) in [
        ("", "username"),
        ("{}", "username"),
        (r#"{"username": ""}"#, "username"),
        (r#"{"username": "  "}"#, "username"),
        (r#"{"username": "a\u0000b"}"#, "username"),
        (r#"{"username": 5}"#, "username"),
        (long.as_str(), "username"),
        (r#"{"username": "a", "daily_quota": -1}"#, "daily_quota"),
        (
            r#"{"username": "a", "daily_quota": 2147483648}"#,
            "daily_quota",
        ),
        (r#"{"username": "a", "daily_quota": 1.5}"#, "daily_quota"),
        (r#"{"username": "a", "is_active": null}"#, "is_active"),
        (r#"{"username": "a", "api_key": "short"}"#, "api_key"),
        (r#"{"username": "a", "api_key": 12345678}"#, "api_key"),
        (r#"{"username": "a", "user_id": 7}"#, "user_id"),
        (r#"{"username": "a", "username": "b"}"#, "username"),
    ] {
        let named = (422, "invalid_field".to_owned(), field.to_owned());
        assert_eq!(create(body).await, named, "{body}");
    }
}

#[tokio::test]
async fn no_error_quotes_a_value_of_the_body() {
    for body in [
        r#"{"username": "a", "api_key": 112233445566}"#,
        r#"{"username": "a", "api_key": "112233445566 with space"}"#,
        r#"{"username": "a", "daily_quota": "112233445566"}"#,
        r#"{"username": "a", "api_key": "isk_112233445566"}"#,
        r#"["112233445566"]"#,
        r#""112233445566""#,
        r#"{"username": "a", "api_key": "112233445566"#,
    ] {
        let (status, _, problem) = send("POST", "/admin/v1/users", body).await;
        assert!(status.is_client_error(), "{status} {body}");
        assert!(!problem.to_string().contains("112233"), "{problem}");
    }
}

#[tokio::test]
async fn a_body_that_is_not_a_json_object_is_400_or_415() {
    assert_eq!(create("{").await.0, 400);
    assert_eq!(create("[]").await.0, 400);
    assert_eq!(
        create("{} {}").await.0,
        422,
        "the first object lacks a username"
    );
    let request = Request::post("/admin/v1/users")
        .header(header::AUTHORIZATION, format!("bearer {TOKEN}"))
        .header(header::CONTENT_TYPE, "text/plain")
        .body(Body::from(r#"{"username": "a"}"#));
    let (status, _, problem) = answer(request.expect("a valid request")).await;
    assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(problem["code"], "unsupported_media_type");
}

#[tokio::test]
async fn a_body_over_16_kib_is_413() {
    let body = format!(r#"{{"username": "{}"}}"#, "a".repeat(16 * 1024));
    assert_eq!(create(&body).await.0, 413);
}

#[tokio::test]
async fn parameters_of_the_list_are_checked_by_name() {
    for (query, status) in [
        ("limit=0", 422),
        ("limit=1001", 422),
        ("limit=ten", 422),
        ("cursor=x", 422),
        ("sort=name", 422),
        ("limit=1&limit=2", 422),
    ] {
        let (answered, _, problem) = send("GET", &format!("/admin/v1/users?{query}"), "").await;
        assert_eq!(answered.as_u16(), status, "{query}");
        let named = query.split('=').next().unwrap_or_default();
        assert_eq!(problem["field"], named, "{problem}");
    }
    for query in [
        "wait=some",
        "wait_seconds=26",
        "wait_seconds=ten",
        "sort=name",
    ] {
        let path = format!("/admin/v1/users/1?{query}");
        let (answered, _, problem) = send("DELETE", &path, "").await;
        let named = query.split('=').next().unwrap_or_default();
        assert_eq!((answered.as_u16(), &problem["field"]), (422, &named.into()));
    }
}

#[tokio::test]
async fn changes_that_are_not_acceptable_are_refused_before_the_database_is_asked() {
    for (method, path, body, field) in [
        (
            "PATCH",
            "/admin/v1/users/1",
            r#"{"daily_quota": -5}"#,
            "daily_quota",
        ),
        (
            "PATCH",
            "/admin/v1/users/1",
            r#"{"username": null}"#,
            "username",
        ),
        (
            "PATCH",
            "/admin/v1/users/1",
            r#"{"api_key": "12345678"}"#,
            "api_key",
        ),
        (
            "POST",
            "/admin/v1/users/1/rotate-key",
            r#"{"overlap_seconds": 2592001}"#,
            "overlap_seconds",
        ),
        (
            "POST",
            "/admin/v1/users/1/rotate-key",
            r#"{"overlap_seconds": -1}"#,
            "overlap_seconds",
        ),
    ] {
        let (status, _, problem) = send(method, path, body).await;
        assert_eq!(
            (status.as_u16(), &problem["field"]),
            (422, &field.into()),
            "{body}"
        );
    }
}

#[tokio::test]
async fn an_unreachable_database_is_503_with_retry_after() {
    for (method, path, body) in [
        ("POST", "/admin/v1/users", r#"{"username": "a"}"#),
        ("GET", "/admin/v1/users", ""),
        ("GET", "/admin/v1/users/1", ""),
        ("DELETE", "/admin/v1/users/1", ""),
        ("POST", "/admin/v1/users/1/rotate-key", ""),
        ("POST", "/admin/v1/full-syncs", ""),
        (
            "GET",
            "/admin/v1/sms/0198c5a0-0000-7000-8000-000000000001",
            "",
        ),
    ] {
        let (status, headers, problem) = send(method, path, body).await;
        assert_eq!(
            status,
            StatusCode::SERVICE_UNAVAILABLE,
            "{method} {path} {problem}"
        );
        assert_eq!(problem["code"], "database_unavailable");
        assert!(headers.contains_key(header::RETRY_AFTER));
    }
}

/// Of a path that needs no token.
async fn open(path: &str) -> (u16, HeaderMap, String) {
    let request = Request::get(path).body(Body::empty());
    let response = api().oneshot(request.expect("a valid request")).await;
    let (parts, body) = response.expect("infallible").into_parts();
    let body = to_bytes(body, 1 << 20).await.expect("a short body");
    let text = String::from_utf8_lossy(&body).into_owned();
    (parts.status.as_u16(), parts.headers, text)
}

#[tokio::test]
async fn the_type_of_a_problem_leads_to_its_place_on_the_page() {
    let (status, _, page) = open("/errors").await;
    assert_eq!(status, 200);
    for kind in problems::catalogue() {
        let (status, headers, _) = open(&kind.uri()).await;
        let place = headers[header::LOCATION].to_str().expect("text");
        let expected = format!("/errors#{}", kind.code);
        assert_eq!((status, place), (303, expected.as_str()));
        let anchor = format!("id=\"{}\"", kind.code);
        assert!(page.contains(&anchor), "{anchor}");
    }
    assert_eq!(open("/errors/no_such_code").await.0, 404);
    let (_, _, problem) = send("GET", "/admin/v1/users/alice", "").await;
    assert_eq!(problem["type"], "/errors/user_not_found");
    assert_eq!(problem["retry"], false);
}

#[tokio::test]
async fn each_code_that_the_description_tells_is_of_the_catalogue_and_each_of_its_kinds_is_told() {
    let (_, _, text) = open("/openapi.json").await;
    let api: Value = serde_json::from_str(&text).expect("JSON");
    let mut untold = problems::catalogue();
    untold.retain(|kind| !problems::BESIDE.contains(kind));
    let operations = api["paths"].as_object().expect("paths").values();
    for operation in operations.flat_map(|path| path.as_object().expect("methods").values()) {
        let answers = operation["responses"].as_object().expect("answers");
        for (status, answer) in answers
            .iter()
            .filter(|(status, _)| status.as_str() >= "400")
        {
            let description = answer["description"].as_str().expect("a description");
            let code = description.split('`').nth(1).expect("a code");
            assert!(!code.is_empty(), "{description}");
            // Codes stand between backticks.
            for code in description.split('`').skip(1).step_by(2) {
                let kind = problems::catalogue().into_iter().find(|it| it.code == code);
                let kind = kind.unwrap_or_else(|| panic!("{code} is of no catalogue"));
                assert_eq!(kind.status.as_str(), status, "{description}");
                untold.retain(|it| *it != kind);
            }
        }
    }
    assert!(untold.is_empty(), "{untold:?}");
}

#[tokio::test]
async fn the_description_is_openapi_3_1_needs_no_token_and_tells_what_any_request_may_meet() {
    let (status, headers, text) = open("/openapi.json").await;
    assert_eq!(status, 200);
    assert_eq!(headers[header::CONTENT_TYPE], "application/json");
    let api: Value = serde_json::from_str(&text).expect("JSON");
    assert!(
        api["openapi"]
            .as_str()
            .is_some_and(|it| it.starts_with("3.1"))
    );
    assert_eq!(
        api["components"]["securitySchemes"]["token"]["scheme"],
        "bearer"
    );
    let paths = api["paths"].as_object().expect("paths");
    let operations = paths
        .values()
        .flat_map(|path| path.as_object().expect("methods"));
    let mut count = 0;
    for (method, operation) in operations {
        count += 1;
        let writes = method != "get";
        assert_eq!(operation["security"][0]["token"], serde_json::json!([]));
        for (answer, expected) in [("401", true), ("403", writes), ("500", true), ("503", true)] {
            assert_eq!(
                operation["responses"][answer].is_object(),
                expected,
                "{answer}: {operation}"
            );
        }
        let waits = operation["parameters"].to_string().contains("wait_seconds");
        assert_eq!(waits, writes, "{operation}");
    }
    assert_eq!(count, 16);
    let change = &paths["/admin/v1/users/{user_id}"]["patch"];
    assert!(
        change["responses"]["200"]["headers"]["ETag"].is_object(),
        "{change}"
    );
    assert!(
        change["parameters"].to_string().contains("If-Match"),
        "{change}"
    );
}
