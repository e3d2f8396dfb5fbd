use axum::http::HeaderValue;

use super::*;

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| {
            (
                name.parse().expect("a header name"),
                HeaderValue::from_static(value),
            )
        })
        .collect()
}

#[test]
fn the_key_is_taken_from_either_header_and_api_key_wins() {
    for (pairs, expected) in [
        (&[("api-key", "k1")][..], Some("k1")),
        (&[("authorization", "Bearer k2")], Some("k2")),
        (&[("authorization", "bearer  k2 ")], Some("k2")),
        (
            &[("api-key", "k1"), ("authorization", "Bearer k2")],
            Some("k1"),
        ),
        (&[("api-key", ""), ("authorization", "Bearer k2")], None),
        (&[("authorization", "Basic azI6")], None),
        (&[("authorization", "Bearer")], None),
        (&[("authorization", "Bearer ")], None),
        (&[], None),
    ] {
        assert_eq!(presented_key(&headers(pairs)), expected, "{pairs:?}");
    }
}

#[test]
fn the_whole_client_comes_into_the_context_or_the_refusal_says_why() {
    let admission = Admission {
        epoch: 1,
        sequence: 7,
        cache_age_ms: 3,
    };
    let config = |is_active| ClientConfig {
        user_id: 42,
        username: "ann".into(),
        is_active,
        daily_quota: 100,
    };
    let client = authorize(Some(config(true)), admission).expect("an active user");
    assert_eq!(
        (client.user_id, &*client.username, client.is_active),
        (42, "ann", true)
    );
    assert_eq!((client.daily_quota, client.admission), (100, admission));

    let inactive = authorize(Some(config(false)), admission).expect_err("inactive");
    assert_eq!(inactive.status(), StatusCode::FORBIDDEN);
    let unknown = authorize(None, admission).expect_err("unknown");
    assert_eq!(unknown.status(), StatusCode::UNAUTHORIZED);
}
