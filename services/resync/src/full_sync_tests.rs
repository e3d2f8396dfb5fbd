//! Against a small server that speaks as server B does.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;
use crate::cli::ServerBArgs;

const TOKEN: &str = "0123456789abcdef";
const SYNC: &str = "0198c5a0-0000-7000-8000-000000000001";

/// What the server answers to each look at a sync, the last one for ever.
type Script = Arc<Mutex<Served>>;

#[derive(Default)]
struct Served {
    requested: u32,
    answers: VecDeque<(StatusCode, Value)>,
}

async fn answer(State(script): State<Script>, request: Request) -> Response {
    let presented = request.headers().get(header::AUTHORIZATION);
    if presented.is_none_or(|value| value != &format!("Bearer {TOKEN}")) {
        return problem(StatusCode::UNAUTHORIZED, "the bearer token is wrong");
    }
    let mut script = script.lock();
    match (request.method().clone(), request.uri().path()) {
        (Method::GET, "/admin/v1/replicas") => Json(json!({"replicas": []})).into_response(),
        (Method::POST, "/admin/v1/full-syncs") => {
            script.requested += 1;
            let body = json!({"sync_id": SYNC, "status": "requested"});
            (StatusCode::ACCEPTED, Json(body)).into_response()
        }
        (Method::GET, path) if path == format!("/admin/v1/full-syncs/{SYNC}") => {
            let next = script.answers.pop_front().expect("an answer");
            if script.answers.is_empty() {
                script.answers.push_back(next.clone());
            }
            if next.0 == StatusCode::OK {
                Json(next.1).into_response()
            } else {
                problem(next.0, next.1.as_str().unwrap_or_default())
            }
        }
        (method, path) => panic!("unexpected call: {method} {path}"),
    }
}

fn problem(status: StatusCode, detail: &str) -> Response {
    let body = json!({"status": status.as_u16(), "detail": detail});
    (status, Json(body)).into_response()
}

fn looks(status: &str, published: u64) -> (StatusCode, Value) {
    let completed = status == "completed";
    let body = json!({
        "sync_id": SYNC, "status": status, "requested_by": "admin API",
        "requested_at": "2026-11-23T09:59:00Z", "started_at": null,
        "finished_at": completed.then_some("2026-11-23T10:00:00.25Z"),
        "users_total": 10, "users_published": published,
        "epoch": 1, "sequence": 7,
        "error": (status == "failed").then_some("the broker went away"),
    });
    (StatusCode::OK, body)
}

async fn serve(answers: Vec<(StatusCode, Value)>) -> (String, Script) {
    let script = Script::default();
    script.lock().answers = answers.into();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let router = Router::new()
        .fallback(answer)
        .with_state(Arc::clone(&script));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, script)
}

fn client(url: &str, token: &str) -> ServerB {
    service_runtime::install_crypto_provider();
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    // With the newline that editors and Secrets made by hand end with.
    writeln!(file, "{token}").expect("written");
    ServerB::new(&ServerBArgs {
        server_b_url: url.parse().expect("a URL"),
        admin_token_file: file.path().to_owned(),
    })
    .expect("a client")
}

async fn run_against(
    answers: Vec<(StatusCode, Value)>,
    limit: Duration,
) -> (Result<FullSync, Failure>, Option<FullSync>, u32) {
    let (url, script) = serve(answers).await;
    let mut latest = None;
    let deadline = Deadline::after(limit);
    let result = run(&client(&url, TOKEN), deadline, &mut latest).await;
    let requested = script.lock().requested;
    (result, latest, requested)
}

const LONG: Duration = Duration::from_mins(1);

#[tokio::test]
async fn a_sync_is_followed_to_its_end_though_server_b_is_away_in_between() {
    let (result, _, requested) = run_against(
        vec![
            looks("requested", 0),
            looks("running", 4),
            (
                StatusCode::SERVICE_UNAVAILABLE,
                json!("the database is away"),
            ),
            (StatusCode::BAD_GATEWAY, json!("no endpoint")),
            looks("completed", 10),
        ],
        LONG,
    )
    .await;
    let sync = result.expect("completed");
    assert_eq!(sync.users_published, 10);
    assert_eq!(
        sync.position().map(|at| (at.epoch, at.sequence)),
        Some((1, 7))
    );
    assert!(sync.finished_at.is_some());
    assert_eq!(requested, 1);
}

#[tokio::test]
async fn a_sync_that_failed_is_tried_again() {
    let answers = vec![looks("failed", 4), looks("completed", 10)];
    let (result, _, requested) = run_against(answers, LONG).await;
    assert!(result.is_ok(), "{result:?}");
    assert_eq!(requested, 2);
}

#[tokio::test]
async fn a_sync_that_fails_each_time_fails_with_server_bs_reason() {
    let (result, latest, requested) = run_against(vec![looks("failed", 4)], LONG).await;
    let error = result.expect_err("failed").to_string();
    assert!(error.contains("the broker went away"), "{error}");
    assert_eq!(requested, ATTEMPTS);
    assert_eq!(latest.map(|sync| sync.users_published), Some(4));
}

#[tokio::test]
async fn a_sync_that_does_not_end_in_time_fails_and_tells_how_far_it_is() {
    let limit = Duration::from_secs(1);
    let (result, _, _) = run_against(vec![looks("running", 4)], limit).await;
    let failure = result.expect_err("late");
    assert!(matches!(failure, Failure::Sync(_)), "{failure}");
    assert!(failure.to_string().contains("4 of 10 users"), "{failure}");
}

#[tokio::test]
async fn a_sync_that_server_b_no_longer_knows_fails_at_once() {
    let answers = vec![(StatusCode::NOT_FOUND, json!("there is no such full sync"))];
    let (result, _, _) = run_against(answers, LONG).await;
    let error = result.expect_err("gone").to_string();
    assert!(error.contains("is gone"), "{error}");
}

#[tokio::test]
async fn a_server_b_that_refuses_the_token_or_does_not_listen_is_server_bs_failure_with_the_reason()
{
    let (url, _) = serve(Vec::new()).await;
    let limit = Duration::from_millis(700);
    for (url, token, reason) in [
        (
            url.as_str(),
            "fedcba9876543210",
            "the bearer token is wrong",
        ),
        ("http://127.0.0.1:1", TOKEN, "refused"),
    ] {
        let b = client(url, token);
        let failure = wait_for_server_b(&b, Deadline::after(limit)).await;
        let failure = failure.expect_err("never");
        assert!(matches!(failure, Failure::ServerB(_)), "{failure}");
        let text = failure.to_string();
        assert!(text.contains(reason) && !text.contains(token), "{text}");
    }
    assert!(
        wait_for_server_b(&client(&url, TOKEN), Deadline::after(LONG))
            .await
            .is_ok()
    );
}

#[test]
fn progress_has_the_rate_since_the_last_line_and_not_too_many_lines() {
    let sync = |published: u64| -> FullSync {
        serde_json::from_value(looks("running", published).1).expect("a full sync")
    };
    let start = Instant::now();
    let mut progress = Progress::new(start);
    assert_eq!(progress.due(&sync(1_000), start + LINES / 2), None);
    let line = progress.due(&sync(8_000), start + LINES).expect("due");
    assert!(line.ends_with("8000 of 10 users, 4000/s"), "{line}");
    assert_eq!(progress.due(&sync(9_000), start + LINES), None);
    let restarted = progress.due(&sync(500), start + LINES * 2).expect("due");
    assert!(restarted.ends_with("500 of 10 users, 0/s"), "{restarted}");
}
