use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap as Headers, Uri};
use axum::response::IntoResponse;
use parking_lot::Mutex;
use serde_json::{Value, json};
use service_runtime::problem::{INVALID_FIELD, Problem, ProblemType};
use time::macros::datetime;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use wire_contract::{Encoding, SmsStatus, SmsTransition};

use super::*;

const TOKEN: &str = "service-token-0123456789";
static NOT_FOUND: ProblemType = ProblemType {
    code: "sms_not_found",
    status: StatusCode::NOT_FOUND,
    title: "-",
    retry: false,
    help: "-",
};

/// A stand-in for server B: what it answers, and what it was asked.
#[derive(Clone, Default)]
struct Peer {
    asked: Arc<Mutex<Vec<String>>>,
    hang: Arc<Notify>,
}

async fn answer(State(peer): State<Peer>, uri: Uri, headers: Headers) -> axum::response::Response {
    let authorization = headers.get("authorization").and_then(|it| it.to_str().ok());
    if authorization != Some(&format!("Bearer {TOKEN}")) {
        return Problem::unauthorized("no token").into_response();
    }
    peer.asked.lock().push(uri.to_string());
    let json = |value: Value| axum::Json(value).into_response();
    match uri.path().rsplit('/').next() {
        Some("00000000-0000-0000-0000-000000000001") => json(json!(record())),
        Some("00000000-0000-0000-0000-000000000002") => {
            Problem::of(&NOT_FOUND, "none").into_response()
        }
        Some("00000000-0000-0000-0000-000000000003") => json(json!({"message_id": 5})),
        Some("00000000-0000-0000-0000-000000000004") => {
            (StatusCode::SERVICE_UNAVAILABLE, "database").into_response()
        }
        Some("00000000-0000-0000-0000-000000000005") => {
            peer.hang.notified().await;
            json(Value::Null)
        }
        Some("00000000-0000-0000-0000-000000000006") => vec![b'x'; MAX_ANSWER + 1].into_response(),
        Some("sms") if uri.query().is_some_and(|it| it.contains("cursor=bad")) => {
            Problem::of(&INVALID_FIELD, "must be ours")
                .with_field("cursor")
                .into_response()
        }
        Some("sms") => json(json!(SmsPage {
            items: vec![record()],
            next_cursor: None
        })),
        _ => (StatusCode::NOT_FOUND, "no such path").into_response(),
    }
}

fn record() -> SmsRecord {
    let at = datetime!(2026-03-01 12:00:00 UTC);
    SmsRecord {
        message_id: id(1),
        status: SmsStatus::Sent,
        to: "+14155550123".to_owned(),
        from: None,
        encoding: Encoding::Gsm7,
        segments: 1,
        client_reference: None,
        submitted_at: at,
        expires_at: at,
        error_code: None,
        idempotency_conflicts: 0,
        history: vec![SmsTransition {
            status: SmsStatus::Queued,
            at,
            error_code: None,
        }],
    }
}

fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

async fn start() -> (Peer, SocketAddr) {
    let peer = Peer::default();
    let router = Router::new().fallback(answer).with_state(peer.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, router).await });
    (peer, address)
}

fn args(url: Option<&str>, token: Option<&str>) -> ServerBArgs {
    ServerBArgs {
        server_b_url: url.map(|url| url.parse().expect("a URL")),
        service_token: token.map(SecretString::from),
        service_token_file: None,
    }
}

fn client(url: &str) -> ServerB {
    service_runtime::install_crypto_provider();
    ServerB::new(&args(Some(url), Some(TOKEN))).expect("a good configuration")
}

#[tokio::test]
async fn an_answer_is_passed_on_and_a_refusal_says_which() {
    let (peer, address) = start().await;
    // A path of its own stays in front.
    for url in [format!("http://{address}"), format!("http://{address}/b/")] {
        let server_b = client(&url);
        assert_eq!(server_b.one(42, id(1)).await, Ok(record()));
        assert_eq!(server_b.one(42, id(2)).await, Err(AskError::NotFound));
    }
    let asked = peer.asked.lock().clone();
    assert_eq!(asked[0], format!("/internal/v1/users/42/sms/{}", id(1)));
    assert_eq!(asked[2], format!("/b/internal/v1/users/42/sms/{}", id(1)));

    let server_b = client(&format!("http://{address}"));
    let parameters = [
        ("limit", "7".to_owned()),
        ("from_time", "2026-03-01T12:00:00+01:00".to_owned()),
    ];
    let page = server_b.list(42, &parameters).await.expect("a page");
    assert_eq!(page.items, [record()]);
    let asked = peer.asked.lock().last().cloned().expect("asked");
    assert_eq!(
        asked,
        "/internal/v1/users/42/sms?limit=7&from_time=2026-03-01T12%3A00%3A00%2B01%3A00"
    );
    let bad = server_b.list(42, &[("cursor", "bad".to_owned())]).await;
    let invalid = AskError::Invalid {
        field: "cursor".to_owned(),
        detail: "must be ours".to_owned(),
    };
    assert_eq!(bad, Err(invalid));
}

#[tokio::test]
async fn what_is_not_an_answer_is_unavailable() {
    let (_, address) = start().await;
    let server_b = client(&format!("http://{address}"));
    for (number, why) in [
        (3, "unexpected"),
        (4, "failed"),
        (6, "unexpected"),
        (7, "unexpected"),
    ] {
        let answer = server_b.one(42, id(number)).await;
        assert_eq!(answer, Err(AskError::Unavailable(why)), "{number}");
    }
    let wrong = args(
        Some(&format!("http://{address}")),
        Some("another-token-0123456789"),
    );
    let wrong = ServerB::new(&wrong).expect("a good configuration");
    assert_eq!(
        wrong.one(42, id(1)).await,
        Err(AskError::Unavailable("unexpected"))
    );
    let nobody = client("http://127.0.0.1:1");
    assert_eq!(
        nobody.one(42, id(1)).await,
        Err(AskError::Unavailable("unreachable"))
    );
    let none = ServerB::default();
    assert_eq!(
        none.one(42, id(1)).await,
        Err(AskError::Unavailable("not_configured"))
    );
}

#[tokio::test]
async fn a_server_b_that_hangs_holds_few_requests_and_not_for_long() {
    let (_, address) = start().await;
    let server_b = client(&format!("http://{address}"));
    let users = 1..=i64::try_from(MAX_IN_FLIGHT / MAX_OF_A_USER).expect("few");
    let waiting: Vec<_> = users
        .flat_map(|user_id| [user_id; MAX_OF_A_USER])
        .map(|user_id| {
            let server_b = server_b.clone();
            tokio::spawn(async move { server_b.one(user_id, id(5)).await })
        })
        .collect();
    let peer = server_b.peer.as_ref().expect("configured");
    while peer.permits.available_permits() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        server_b.one(42, id(1)).await,
        Err(AskError::Unavailable("overloaded"))
    );
    for answer in waiting {
        let answer = answer.await.expect("no panic");
        assert_eq!(answer, Err(AskError::Unavailable("timeout")));
    }
    assert_eq!(server_b.one(42, id(1)).await, Ok(record()));
}

#[tokio::test]
async fn a_user_that_asks_much_at_one_moment_is_refused_and_others_are_answered() {
    let (peer, address) = start().await;
    let server_b = client(&format!("http://{address}"));
    let waiting: Vec<_> = (0..MAX_OF_A_USER)
        .map(|_| {
            let server_b = server_b.clone();
            tokio::spawn(async move { server_b.one(1, id(5)).await })
        })
        .collect();
    while peer.asked.lock().len() < MAX_OF_A_USER {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(server_b.one(1, id(1)).await, Err(AskError::TooMany));
    assert_eq!(server_b.one(2, id(1)).await, Ok(record()));
    // Also those that went away without an answer are no longer counted.
    for answer in waiting {
        answer.abort();
        assert!(answer.await.is_err_and(|error| error.is_cancelled()));
    }
    assert_eq!(server_b.one(1, id(1)).await, Ok(record()));
    let asking = &server_b.peer.as_ref().expect("configured").asking;
    assert!(asking.lock().is_empty());
}

#[test]
fn half_a_configuration_is_refused_with_the_name_of_the_other_half() {
    service_runtime::install_crypto_provider();
    for (url, token, missing) in [
        (Some("http://b:8080"), None, "SERVICE_TOKEN"),
        (None, Some(TOKEN), "SERVER_B_URL"),
        (Some("http://b:8080"), Some("short"), "at least 16"),
        (Some("ftp://b:8080"), Some(TOKEN), "http://"),
    ] {
        let error = ServerB::new(&args(url, token)).expect_err("half a configuration");
        assert!(format!("{error:#}").contains(missing), "{error:#}");
    }
    assert!(ServerB::new(&args(None, None)).is_ok_and(|it| it.peer.is_none()));
}
