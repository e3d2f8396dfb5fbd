use std::fmt::Write as _;

use axum::http::StatusCode;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::{Api, TOKEN};

/// Requests of one run.
const REQUESTS: usize = 3_000;
const METHODS: [&str; 10] = [
    "GET", "GET", "POST", "POST", "PATCH", "DELETE", "PUT", "HEAD", "OPTIONS", "BREW",
];
const PATHS: [&str; 19] = [
    "/users",
    "/users/1",
    "/users/2",
    "/users/-9223372036854775808",
    "/users/99999999999999999999",
    "/users/%00",
    "/users/1/keys",
    "/users/1/keys/1",
    "/users/1/keys/%F0%9F%98%80",
    "/users/1/rotate-key",
    "/tokens",
    "/tokens/some",
    "/tokens/%00",
    "/audit",
    "/replicas",
    "/full-syncs",
    "/full-syncs/%00",
    "/full-syncs/0198c5a0-0000-7000-8000-000000000001",
    "/sms/0198c5a0-0000-7000-8000-000000000001",
];
const PARAMETERS: [&str; 13] = [
    "cursor",
    "limit",
    "username",
    "username_prefix",
    "is_active",
    "created_after",
    "created_before",
    "user_id",
    "actor",
    "from_time",
    "to_time",
    "wait",
    "wait_seconds",
];
const FIELDS: [&str; 9] = [
    "username",
    "is_active",
    "daily_quota",
    "api_key",
    "overlap_seconds",
    "key_expires_at",
    "name",
    "role",
    "expires_at",
];
/// As JSON; without the quotes, and escaped, in queries.
const VALUES: [&str; 24] = [
    "null",
    "true",
    "0",
    "-1",
    "1",
    "\"all\"",
    "1e400",
    "9223372036854775808",
    "2147483647",
    "1.5",
    "[]",
    "{}",
    "\"\"",
    "\"a\"",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "\"\u{10ffff}\"",
    "\"'; DROP TABLE users --\"",
    "\"reader\"",
    "\"admin\"",
    "\"isk_000000000000000000000000000000000000\"",
    "\"9998-12-31T23:59:59Z\"",
    "\"0000-01-01T00:00:00-23:59\"",
    "\"-9999-01-01T00:00:00Z\"",
];

fn query(rng: &mut StdRng) -> String {
    let mut query = String::new();
    for _ in 0..rng.random_range(0..3) {
        query.push(if query.is_empty() { '?' } else { '&' });
        query += PARAMETERS.choose(rng).expect("some");
        query.push('=');
        for byte in VALUES.choose(rng).expect("some").trim_matches('"').bytes() {
            let _ = write!(query, "%{byte:02X}");
        }
    }
    query
}

fn body(rng: &mut StdRng) -> String {
    match rng.random_range(0..10) {
        0 => String::new(),
        1 => format!("{{\"username\": \"user-{}\"}}", rng.random::<u32>()),
        2 => (*VALUES.choose(rng).expect("some")).to_owned(),
        3 => "{\"username\": ".repeat(rng.random_range(1..2_000)),
        _ => {
            let fields: Vec<String> = (0..rng.random_range(0..4))
                .map(|_| {
                    let name = FIELDS.choose(rng).expect("some");
                    format!("\"{name}\": {}", VALUES.choose(rng).expect("some"))
                })
                .collect();
            format!("{{{}}}", fields.join(", "))
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_role_and_body_a_request_has_it_is_no_error_of_the_server() {
    let api = Api::start().await;
    api.user("alice").await;
    let seed = rand::rng().random();
    let mut rng = StdRng::seed_from_u64(seed);
    let (reader, admin) = (
        api.token("reader", "reader").await,
        api.token("admin", "admin").await,
    );
    let revoked = api.token("some", "admin").await;
    api.done(204, "DELETE", "/tokens/some", "").await;
    let tokens = [
        TOKEN,
        TOKEN,
        TOKEN,
        &admin,
        &admin,
        &reader,
        &revoked,
        "",
        "ist_",
        "0123456789abcdee",
    ];
    let mut answered = std::collections::BTreeMap::<u16, usize>::new();
    for number in 0..REQUESTS {
        let token = *tokens.choose(&mut rng).expect("some");
        let mut method = *METHODS.choose(&mut rng).expect("some");
        let mut path = format!(
            "{}{}",
            PATHS.choose(&mut rng).expect("some"),
            query(&mut rng)
        );
        let mut body = body(&mut rng);
        // Chance alone may never hit on one that succeeds.
        if number % 50 == 0 {
            method = "POST";
            "/users".clone_into(&mut path);
            body = format!(r#"{{"username": "fuzzed-{number}"}}"#);
        }
        let answer = api.call_as(token, method, &path, &body).await;
        *answered.entry(answer.status.as_u16()).or_default() += 1;
        assert!(
            answer.status < StatusCode::INTERNAL_SERVER_ERROR,
            "seed {seed}: {method} {path} {body}\n{} {}",
            answer.status,
            answer.text
        );
        let is_trusted = [TOKEN, &admin].contains(&token);
        let reads = token == reader && ["GET", "HEAD"].contains(&method);
        let refused = [401, 403].contains(&answer.status.as_u16());
        assert_eq!(
            refused,
            !(is_trusted || reads),
            "seed {seed}: {method} {path} {}",
            answer.status
        );
    }
    println!("{answered:?}");
    assert!(
        answered.contains_key(&201) && answered.contains_key(&422),
        "{answered:?}"
    );
}
