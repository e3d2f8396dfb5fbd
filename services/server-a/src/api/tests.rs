//! The router without a broker: a publisher whose task does not run answers `NotConnected`.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::http::{HeaderMap, Request, Response, StatusCode, header};
use service_runtime::config::AmqpArgs;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use uuid::Uuid;
use wire_contract::{
    ApiKey, ConfigEvent, DIGEST_VERSION, Position, SnapshotChunk, SnapshotCompleted,
    SnapshotStarted, UserRecord, UserSetDigest,
};

use super::*;

const ACTIVE: &str = "key-of-ann";
const INACTIVE: &str = "key-of-bob";
const SMS: &str = r#"{"to": "+14155550123", "from": "ACME", "body": "hi"}"#;

fn disconnected() -> Publisher {
    let args = AmqpArgs {
        rabbitmq_url: "amqp://localhost".into(),
        rabbitmq_ca_file: None,
    };
    let connector = service_runtime::amqp::Connector::new("test", &args).expect("a valid URL");
    let (publisher, task) = publisher(connector, CancellationToken::new());
    drop(task);
    publisher
}

fn user(user_id: i64, key: &str, is_active: bool) -> UserRecord {
    UserRecord {
        user_id,
        api_key: Some(ApiKey::Plain(key.to_owned())),
        username: format!("user-{user_id}"),
        is_active,
        daily_quota: 100,
        previous_keys: Vec::new(),
        version: user_id,
    }
}

fn filled() -> UserCache {
    let users = vec![user(1, ACTIVE, true), user(2, INACTIVE, false)];
    let mut digest = UserSetDigest::default();
    for user in &users {
        digest += UserSetDigest::of_user(user);
    }
    let snapshot_id = Uuid::now_v7();
    let as_of = Position {
        epoch: 1,
        sequence: 2,
    };
    let cache = empty();
    cache.subscribed();
    cache.apply(ConfigEvent::SnapshotStarted(SnapshotStarted {
        snapshot_id,
        credit_queue: "credit".to_owned(),
        window: 8,
        users: None,
    }));
    cache.apply(ConfigEvent::SnapshotChunk(SnapshotChunk {
        snapshot_id,
        index: 0,
        as_of,
        users,
    }));
    cache.apply(ConfigEvent::SnapshotCompleted(SnapshotCompleted {
        snapshot_id,
        position: as_of,
        comparable_from: 0,
        count: 2,
        digest,
        digest_version: DIGEST_VERSION,
    }));
    cache
}

fn empty() -> UserCache {
    UserCache::new(crate::cache::Limits {
        fail_closed_after: Duration::from_mins(1),
        max_staleness: Duration::from_mins(1),
    })
}

fn state(cache: UserCache) -> ApiState {
    ApiState {
        cache,
        publisher: disconnected(),
        rates: UserRates::default(),
        usage: Usage::default(),
        remembered: Remembered::default(),
        server_b: ServerB::default(),
    }
}

fn api(cache: UserCache) -> Router {
    router(state(cache)).expect("the description is JSON")
}

fn post_sms(key: Option<&str>, content_type: &str, body: impl Into<Body>) -> Request<Body> {
    let mut request = Request::post(SEND_PATH).header(header::CONTENT_TYPE, content_type);
    if let Some(key) = key {
        request = request.header("API-Key", key);
    }
    request.body(body.into()).expect("a request")
}

fn get_path(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).expect("a request")
}

/// Asserts that the answer is a problem of this status and code, and returns it.
async fn problem(response: Response<Body>, status: u16, code: &str) -> (HeaderMap, Value) {
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.expect("a body");
    let json: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(parts.status.as_u16(), status, "{json}");
    assert_eq!(
        parts.headers[header::CONTENT_TYPE],
        "application/problem+json"
    );
    assert_eq!(json["status"], status);
    assert_eq!(json["code"], code, "{json}");
    assert_eq!(json["type"], format!("/errors/{code}"));
    let listed = problems::catalogue();
    let listed = listed.iter().find(|it| it.code == code).expect("listed");
    assert_eq!(
        (listed.status.as_u16(), &json["title"]),
        (status, &json!(listed.title))
    );
    assert_eq!(json["retry"], listed.retry);
    for member in ["title", "detail"] {
        assert!(json[member].as_str().is_some_and(|text| !text.is_empty()));
    }
    (parts.headers, json)
}

async fn ask(router: Router, request: Request<Body>) -> Response<Body> {
    router.oneshot(request).await.expect("infallible")
}

#[tokio::test]
async fn a_cache_that_does_not_serve_comes_before_everything_else() {
    let response = ask(api(empty()), post_sms(None, "text/plain", "{")).await;
    let (headers, _) = problem(response, 503, "cache_not_ready").await;
    assert!(headers.contains_key(header::RETRY_AFTER));
}

#[tokio::test]
async fn a_missing_or_unknown_key_is_unauthorized_whatever_the_body() {
    for key in [None, Some("no-such-key"), Some("")] {
        let large = vec![b'x'; 2 * sms::MAX_BODY_BYTES];
        let response = ask(api(filled()), post_sms(key, "application/json", large)).await;
        let (headers, json) = problem(response, 401, "unauthorized").await;
        assert!(headers.contains_key(header::WWW_AUTHENTICATE));
        assert!(!json.to_string().contains("no-such-key"));
    }
}

#[tokio::test]
async fn an_unauthorized_body_is_not_read() {
    let body = Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
    let response = ask(api(filled()), post_sms(None, "application/json", body)).await;
    problem(response, 401, "unauthorized").await;
}

#[tokio::test]
async fn an_inactive_user_is_forbidden_whatever_the_body() {
    let response = ask(
        api(filled()),
        post_sms(Some(INACTIVE), "application/json", "{"),
    )
    .await;
    problem(response, 403, "user_inactive").await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_too_large() {
    let large = vec![b' '; sms::MAX_BODY_BYTES + 1];
    let response = ask(
        api(filled()),
        post_sms(Some(ACTIVE), "application/json", large),
    )
    .await;
    problem(response, 413, "body_too_large").await;
}

#[tokio::test]
async fn a_body_that_is_not_json_or_not_valid_is_refused() {
    for (content_type, body, status, code) in [
        ("text/plain", SMS, 415, "unsupported_media_type"),
        ("application/json", "{\"to\": ", 400, "malformed_json"),
        ("application/json", "{}", 422, "invalid_field"),
    ] {
        let response = ask(api(filled()), post_sms(Some(ACTIVE), content_type, body)).await;
        problem(response, status, code).await;
    }
}

#[tokio::test]
async fn an_invalid_field_is_named() {
    let body = r#"{"to": "+14155550123", "body": "hi", "form": "ACME"}"#;
    let response = ask(
        api(filled()),
        post_sms(Some(ACTIVE), "application/json", body),
    )
    .await;
    let (_, json) = problem(response, 422, "invalid_field").await;
    assert_eq!(json["field"], "form");
}

#[tokio::test]
async fn a_body_that_breaks_off_is_a_bad_request() {
    let broken = futures_util::stream::iter([Err::<Bytes, _>(std::io::Error::other("gone"))]);
    let request = post_sms(Some(ACTIVE), "application/json", Body::from_stream(broken));
    let response = ask(api(filled()), request).await;
    problem(response, 400, "body_unreadable").await;
}

#[tokio::test]
async fn a_broker_that_is_away_is_unavailable_and_counted() {
    let counter = crate::metrics::SMS_REJECTED.with_label_values(&["queue_unavailable"]);
    let before = counter.get();
    let accepted = crate::metrics::SMS_ACCEPTED.get();
    let request = post_sms(Some(ACTIVE), "application/json", SMS);
    let (headers, json) =
        problem(ask(api(filled()), request).await, 503, "queue_unavailable").await;
    assert!(headers.contains_key(header::RETRY_AFTER));
    assert!(json.get("message_id").is_none());
    assert_eq!(counter.get(), before + 1);
    assert_eq!(crate::metrics::SMS_ACCEPTED.get(), accepted);
}

fn send_sms(body: &Value, idempotency_key: Option<&str>) -> Request<Body> {
    let mut request = post_sms(Some(ACTIVE), "application/json", body.to_string());
    if let Some(key) = idempotency_key {
        let key = key.try_into().expect("a header's value");
        request.headers_mut().insert("Idempotency-Key", key);
    }
    request
}

#[tokio::test]
async fn a_dry_run_says_what_the_sms_would_be_and_counts_nothing() {
    let state = state(filled());
    let api = router(state.clone()).expect("the description is JSON");
    let body = json!({"to": "+14155550123", "body": "я".repeat(71), "dry_run": true});
    for _ in 0..2 {
        let response = ask(api.clone(), send_sms(&body, Some("key"))).await;
        assert_eq!(response.status(), StatusCode::OK);
        let headers = response.headers().clone();
        assert_eq!(
            headers["ratelimit-policy"],
            r#""daily";q=100;w=86400;qu="segments""#
        );
        let limit = headers["ratelimit"].to_str().expect("text");
        assert!(limit.starts_with(r#""daily";r=100;t="#), "{limit}");
        let body = to_bytes(response.into_body(), 1024).await.expect("a body");
        let json: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(
            json,
            json!({"segments": 2, "encoding": "ucs2", "quota_left": 100})
        );
    }
}

#[tokio::test]
async fn what_goes_beyond_the_quota_is_refused_until_midnight() {
    let state = state(filled());
    let now = time::OffsetDateTime::now_utc();
    let (charge, _) = state
        .usage
        .charge(1, 100, 99, now)
        .expect("within the quota");
    charge.keep();
    let api = router(state.clone()).expect("the description is JSON");
    let two = json!({"to": "+14155550123", "body": "a".repeat(161)});
    let (headers, _) = problem(
        ask(api.clone(), send_sms(&two, None)).await,
        429,
        "quota_exceeded",
    )
    .await;
    let seconds: u32 = headers[header::RETRY_AFTER]
        .to_str()
        .expect("text")
        .parse()
        .expect("a number");
    assert!((1..=86_400).contains(&seconds));
    assert_eq!(headers["ratelimit"], format!(r#""daily";r=1;t={seconds}"#));
    // One segment is left; the broker is away, and what was not queued does not count.
    let one = json!({"to": "+14155550123", "body": "a"});
    for _ in 0..3 {
        problem(
            ask(api.clone(), send_sms(&one, None)).await,
            503,
            "queue_unavailable",
        )
        .await;
    }
}

#[tokio::test]
async fn another_content_under_a_key_is_a_conflict_and_the_same_is_not() {
    let state = state(filled());
    let body = json!({"to": "+14155550123", "body": "hi"});
    let hash = idempotency::RequestHash::of(&[("to", Some("+14155550123")), ("body", Some("hi"))]);
    let id = wire_contract::idempotent_message_id(1, "key");
    assert!(state.remembered.note(id, hash).expect("new"));
    let api = router(state).expect("the description is JSON");
    let other = json!({"to": "+14155550123", "body": "ho"});
    let response = ask(api.clone(), send_sms(&other, Some("key"))).await;
    let (_, json) = problem(response, 409, "idempotency_conflict").await;
    assert_eq!(json["message_id"], id.to_string());
    let response = ask(api, send_sms(&body, Some(r#""key""#))).await;
    problem(response, 503, "queue_unavailable").await;
}

#[tokio::test]
async fn a_repeat_needs_no_quota_and_what_was_not_queued_is_not_remembered() {
    let state = state(filled());
    let api = router(state.clone()).expect("the description is JSON");
    let sms = json!({"to": "+14155550123", "body": "hi"});
    problem(
        ask(api.clone(), send_sms(&sms, Some("key"))).await,
        503,
        "queue_unavailable",
    )
    .await;
    let other = json!({"to": "+14155550123", "body": "ho"});
    problem(
        ask(api.clone(), send_sms(&other, Some("key"))).await,
        503,
        "queue_unavailable",
    )
    .await;

    let hash = idempotency::RequestHash::of(&[("to", Some("+14155550123")), ("body", Some("hi"))]);
    let id = wire_contract::idempotent_message_id(1, "known");
    assert!(state.remembered.note(id, hash).expect("new"));
    let now = time::OffsetDateTime::now_utc();
    let (charge, _) = state
        .usage
        .charge(1, 100, 100, now)
        .expect("within the quota");
    charge.keep();
    // It is charged already: only the broker that is away stands in its way.
    problem(
        ask(api.clone(), send_sms(&sms, Some("known"))).await,
        503,
        "queue_unavailable",
    )
    .await;
    problem(
        ask(api, send_sms(&sms, Some("new"))).await,
        429,
        "quota_exceeded",
    )
    .await;
}

#[tokio::test]
async fn an_invalid_idempotency_key_is_named() {
    for key in ["", "two words", "\"open", &"k".repeat(256)] {
        let sms = json!({"to": "+14155550123", "body": "hi"});
        let (_, json) = problem(
            ask(api(filled()), send_sms(&sms, Some(key))).await,
            422,
            "invalid_field",
        )
        .await;
        assert_eq!(json["field"], "Idempotency-Key");
    }
}

#[tokio::test]
async fn a_user_that_asks_too_often_is_told_to_wait_whatever_it_asks_for() {
    let args = <RatesOnly as clap::Parser>::parse_from(["test", "--user-requests-burst", "2"]);
    let state = ApiState {
        rates: UserRates::new(&args.rates),
        ..state(filled())
    };
    let api = router(state).expect("the description is JSON");
    let list = || {
        let request = Request::get("/api/v1/sms").header("API-Key", ACTIVE);
        request.body(Body::empty()).expect("a request")
    };
    for _ in 0..2 {
        problem(ask(api.clone(), list()).await, 503, "status_unavailable").await;
    }
    let request = post_sms(Some(ACTIVE), "application/json", "{");
    let (headers, _) = problem(ask(api.clone(), request).await, 429, "rate_limited").await;
    assert_eq!(headers[header::RETRY_AFTER], "1");
    // Of another user: not its fault.
    let other = post_sms(Some(INACTIVE), "application/json", "{");
    problem(ask(api, other).await, 403, "user_inactive").await;
}

#[derive(clap::Parser)]
struct RatesOnly {
    #[command(flatten)]
    rates: crate::rates::RateArgs,
}

#[tokio::test]
async fn without_a_server_b_only_the_status_of_sms_is_unavailable() {
    for path in [
        "/api/v1/sms",
        "/api/v1/sms/0199d2a8-0000-7000-8000-000000000000",
    ] {
        let request = Request::get(path).header("API-Key", ACTIVE);
        let request = request.body(Body::empty()).expect("a request");
        let (headers, _) =
            problem(ask(api(filled()), request).await, 503, "status_unavailable").await;
        assert!(headers.contains_key(header::RETRY_AFTER));
        problem(
            ask(api(filled()), get_path(path)).await,
            401,
            "unauthorized",
        )
        .await;
    }
    let request = Request::get("/api/v1/sms/not-an-id").header("API-Key", ACTIVE);
    let request = request.body(Body::empty()).expect("a request");
    problem(ask(api(filled()), request).await, 404, "sms_not_found").await;
}

#[tokio::test]
async fn a_bearer_token_authenticates_as_well() {
    let request = Request::post(SEND_PATH)
        .header(header::AUTHORIZATION, format!("Bearer {ACTIVE}"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(SMS))
        .expect("a request");
    problem(ask(api(filled()), request).await, 503, "queue_unavailable").await;
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems() {
    problem(
        ask(api(filled()), get_path("/api/v1/nothing")).await,
        404,
        "not_found",
    )
    .await;
    let (headers, _) = problem(
        ask(api(filled()), get_path(SEND_PATH)).await,
        405,
        "method_not_allowed",
    )
    .await;
    assert_eq!(headers[header::ALLOW], "POST");
}

#[tokio::test]
async fn the_root_names_the_service() {
    let response = ask(api(empty()), get_path("/")).await;
    assert_eq!(response.status(), StatusCode::OK);
    let body = to_bytes(response.into_body(), 1024).await.expect("a body");
    let json: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(json["service"], "server-a");
}

/// One request at a time, each of which may take this long.
fn one_at_a_time(timeout: Duration) -> Limits {
    Limits {
        permits: Arc::new(Semaphore::new(1)),
        timeout,
    }
}

#[tokio::test]
async fn a_panic_is_a_problem_that_does_not_tell_its_text() {
    async fn panics() {
        panic!("SECRET");
    }
    let router = guarded(Router::new().route("/", get(panics)), Limits::default());
    let (_, json) = problem(ask(router, get_path("/")).await, 500, "internal").await;
    assert!(!json.to_string().contains("SECRET"));
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_unavailable() {
    let pending = Router::new().route("/", get(std::future::pending::<()>));
    let router = guarded(pending, one_at_a_time(Duration::from_millis(1)));
    problem(ask(router, get_path("/")).await, 503, "timeout").await;
}

#[tokio::test]
async fn requests_over_the_limit_are_refused_while_those_whose_client_left_still_count() {
    let limits = one_at_a_time(Duration::from_mins(1));
    let pending = Router::new().route("/", get(std::future::pending::<()>));
    let router = guarded(pending, limits.clone());
    let request = tokio::spawn(router.clone().oneshot(get_path("/")));
    while limits.permits.available_permits() > 0 {
        tokio::task::yield_now().await;
    }
    request.abort();
    assert!(request.await.is_err_and(|error| error.is_cancelled()));

    let (headers, _) = problem(ask(router, get_path("/")).await, 503, "overloaded").await;
    assert!(headers.contains_key(header::RETRY_AFTER));
}

#[tokio::test]
async fn a_request_is_finished_and_counted_when_its_client_leaves() {
    let (release, released) = tokio::sync::oneshot::channel::<()>();
    let released = Arc::new(tokio::sync::Mutex::new(Some(released)));
    let handler = move || async move {
        if let Some(released) = released.lock().await.take() {
            released.await.ok();
        }
    };
    let router = guarded(
        Router::new().route("/abandoned", get(handler)),
        Limits::default(),
    );
    let request = tokio::spawn(router.oneshot(get_path("/abandoned")));
    tokio::task::yield_now().await;
    request.abort();
    assert_eq!(requests_measured("/abandoned"), 0);
    release.send(()).expect("the handler still waits");
    let counted = async {
        while requests_measured("/abandoned") == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), counted)
        .await
        .expect("the request was counted");
}

/// Samples of the request duration with this route.
fn requests_measured(route: &str) -> u64 {
    prometheus::gather()
        .iter()
        .filter(|family| family.name() == "http_server_request_duration_seconds")
        .flat_map(prometheus::proto::MetricFamily::get_metric)
        .filter(|metric| {
            metric
                .get_label()
                .iter()
                .any(|label| label.value() == route)
        })
        .map(|metric| metric.get_histogram().get_sample_count())
        .sum()
}
