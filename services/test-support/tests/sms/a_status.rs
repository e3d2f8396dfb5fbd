//! What became of an SMS is asked of server B over HTTP: here of a stand-in for it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};
use test_support::Answer;
use test_support::app::{App, Setup, TestUser, Verdict};

const TOKEN: &str = "service-token-0123456789";
const ID: &str = "0199d2a8-0000-7000-8000-000000000001";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// Answers one user's questions, unless it hangs; keeps what it was asked.
struct Peer {
    address: SocketAddr,
    owner: Arc<Mutex<i64>>,
    asked: Arc<Mutex<Vec<String>>>,
    hangs: Arc<AtomicBool>,
}

impl Peer {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let peer = Self {
            address: listener.local_addr().expect("an address"),
            owner: Arc::default(),
            asked: Arc::default(),
            hangs: Arc::default(),
        };
        let (owner, asked) = (Arc::clone(&peer.owner), Arc::clone(&peer.asked));
        let hangs = Arc::clone(&peer.hangs);
        thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming().flatten() {
                if hangs.load(Ordering::Relaxed) {
                    held.push(stream);
                    continue;
                }
                let request = head(&stream);
                let owner = *owner.lock().expect("no panics");
                // Noted first: who has the answer looks at once.
                asked.lock().expect("no panics").push(request.clone());
                answer(&stream, &request, owner);
            }
        });
        peer
    }

    fn last(&self) -> String {
        let asked = self.asked.lock().expect("no panics");
        asked.last().expect("something was asked").clone()
    }
}

fn head(mut stream: &TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
        head.extend(byte);
    }
    String::from_utf8_lossy(&head).to_lowercase()
}

fn answer(mut stream: &TcpStream, request: &str, owner: i64) {
    let of_owner = format!("get /internal/v1/users/{owner}/sms");
    let (status, body) = if !request.contains(&format!("authorization: bearer {TOKEN}")) {
        ("401 Unauthorized", json!({"code": "unauthorized"}))
    } else if request.starts_with(&format!("{of_owner}/{ID} ")) {
        ("200 OK", record())
    } else if request.starts_with(&format!("{of_owner}?")) {
        (
            "200 OK",
            json!({"items": [record()], "next_cursor": "next"}),
        )
    } else {
        ("404 Not Found", json!({"code": "sms_not_found"}))
    };
    let body = body.to_string();
    let length = body.len();
    let text = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    // Who asked may have gone.
    let _ = stream.write_all(text.as_bytes());
}

fn record() -> Value {
    json!({
        "message_id": ID, "status": "delivered", "to": "+14155550123", "from": "ACME", "encoding": "gsm7", "segments": 1,
        "client_reference": "order-4711", "submitted_at": "2026-03-01T12:00:00Z", "expires_at": "2026-03-04T12:00:00Z",
        "error_code": null, "idempotency_conflicts": 0,
        "history": [
            {"status": "queued", "at": "2026-03-01T12:00:00Z"},
            {"status": "delivered", "at": "2026-03-01T12:00:02Z"},
        ],
    })
}

fn ask(app: &App, user: &TestUser, path: &str) -> Answer {
    let url = format!("{}/api/v1/sms{path}", app.replicas[0].url);
    let traceparent = format!("00-{TRACE}-b7ad6b7169203331-01");
    let headers = [
        ("api-key", user.key.as_str()),
        ("traceparent", traceparent.as_str()),
    ];
    let answer = app.http().call_with("GET", &url, &headers, None);
    answer.expect("A answers")
}

#[test]
fn a_user_sees_what_became_of_its_own_sms_and_of_no_others_and_sends_need_no_server_b_for_it() {
    let peer = Peer::start();
    let (setup, guards) = Setup::shared();
    let setup = setup
        .env("SERVER_B_URL", &format!("http://{}", peer.address))
        .env("SERVICE_TOKEN", TOKEN)
        // Traces go nowhere, but there are some.
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1");
    let mut app = App::new(setup, Some(guards));
    app.start_all(1);
    let (owner, other) = (app.create_user("owner"), app.create_user("other"));
    app.everywhere(&other.key, Verdict::Accepted);
    *peer.owner.lock().expect("no panics") = owner.id;

    let found = ask(&app, &owner, &format!("/{ID}"));
    assert_eq!(
        (found.status, &found.body["status"]),
        (200, &json!("delivered")),
        "{}",
        found.text
    );
    assert_eq!(found.body["history"][1]["at"], "2026-03-01T12:00:02Z");
    assert!(
        peer.last().contains(&format!("traceparent: 00-{TRACE}-")),
        "{}",
        peer.last()
    );
    let page = ask(
        &app,
        &owner,
        "?status=delivered&from_time=2026-03-01T00:00:00Z&limit=7",
    );
    assert_eq!(
        (page.status, &page.body["next_cursor"]),
        (200, &json!("next")),
        "{}",
        page.text
    );
    let asked = peer.last();
    for parameter in [
        "status=delivered",
        "from_time=2026-03-01t00%3a00%3a00z",
        "limit=7",
    ] {
        assert!(asked.contains(parameter), "{asked}");
    }
    for (user, path) in [
        (&other, format!("/{ID}")),
        (&owner, "/not-an-id".to_owned()),
    ] {
        let absent = ask(&app, user, &path);
        assert_eq!(
            (absent.status, &absent.body["code"]),
            (404, &json!("sms_not_found"))
        );
    }
    let invalid = ask(&app, &owner, "?limit=0");
    assert_eq!(
        (invalid.status, &invalid.body["field"]),
        (422, &json!("limit"))
    );

    // It hangs: these alone are unavailable, and soon.
    peer.hangs.store(true, Ordering::Relaxed);
    let hung = ask(&app, &owner, &format!("/{ID}"));
    assert_eq!(
        (hung.status, &hung.body["code"]),
        (503, &json!("status_unavailable"))
    );
    assert!(!hung.header("retry-after").is_empty());
    let sent = app.send(&app.replicas[0], &owner.key).expect("A answers");
    assert_eq!(sent.status, 202, "{}", sent.text);
    app.replicas[0].ready(app.http()).expect("ready without it");
    let name = "identity_sms_status_requests_total";
    for outcome in ["answered", "not_found", "timeout"] {
        let label = format!("\"{outcome}\"");
        assert!(
            app.replicas[0].metric(app.http(), name, &label) > 0.5,
            "{outcome}"
        );
    }
}
