use axum::http::{HeaderValue, StatusCode};

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
        (&[("api-key", "k1"), ("api-key", "k2")], None),
        (&[("authorization", "Basic azI6")], None),
        (&[("authorization", "Bearer")], None),
        (&[("authorization", "Bearer ")], None),
        (&[], None),
    ] {
        assert_eq!(presented_key(&headers(pairs)), expected, "{pairs:?}");
    }
}

/// The admission of every look-up here.
const ADMISSION: Admission = Admission {
    epoch: 1,
    sequence: 7,
    cache_age_ms: 3,
};

fn config(is_active: bool) -> ClientConfig {
    ClientConfig {
        user_id: 42,
        username: "ann".into(),
        is_active,
        daily_quota: 100,
    }
}

#[test]
fn the_whole_client_comes_into_the_context_or_the_refusal_says_why() {
    let find =
        |config: Option<ClientConfig>| authenticate("key", ADMISSION, KeyDigest::of, |_| config);
    let client = find(Some(config(true))).expect("an active user");
    assert_eq!(
        (client.user_id, &*client.username, client.is_active),
        (42, "ann", true)
    );
    assert_eq!((client.daily_quota, client.admission), (100, ADMISSION));
    assert_eq!(client.key_digest, KeyDigest::of("key"));

    let inactive = find(Some(config(false))).expect_err("inactive");
    assert_eq!(inactive.status(), StatusCode::FORBIDDEN);
    let unknown = find(None).expect_err("unknown");
    assert_eq!(unknown.status(), StatusCode::UNAUTHORIZED);
}

#[test]
fn known_unknown_and_inactive_keys_take_one_hash_and_one_look_up_each() {
    for found in [Some(config(true)), Some(config(false)), None] {
        let (mut hashes, mut look_ups) = (Vec::new(), Vec::new());
        let hash = |key: &str| {
            hashes.push(key.len());
            KeyDigest::of(key)
        };
        let look_up = |digest: &KeyDigest| {
            look_ups.push(*digest);
            found.clone()
        };
        let _ = authenticate("isk_equally_long", ADMISSION, hash, look_up);
        assert_eq!(hashes, ["isk_equally_long".len()]);
        assert_eq!(look_ups, [KeyDigest::of("isk_equally_long")]);
    }
}
