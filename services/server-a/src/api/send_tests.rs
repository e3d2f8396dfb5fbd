use super::*;

#[test]
fn an_unconfirmed_sms_is_named_and_a_refused_one_is_not() {
    let id = Uuid::now_v7();
    let unconfirmed = not_queued(PublishError::Unconfirmed, id);
    assert_eq!(unconfirmed.code(), "not_confirmed");
    assert!(format!("{unconfirmed:?}").contains(&id.to_string()));
    for error in [
        PublishError::NotConnected,
        PublishError::Refused,
        PublishError::Unroutable,
    ] {
        let refused = not_queued(error, id);
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(refused.code(), "queue_unavailable");
        assert!(!format!("{refused:?}").contains(&id.to_string()));
    }
}

#[test]
fn the_envelope_carries_what_server_b_needs_to_know() {
    let client = ClientContext {
        user_id: 42,
        username: "ann".into(),
        is_active: true,
        daily_quota: 100,
        key_digest: wire_contract::KeyDigest::of("key"),
        admission: wire_contract::Admission {
            epoch: 1,
            sequence: 7,
            cache_age_ms: 3,
        },
    };
    let sms = || Sms {
        to: "+14155550123".to_owned(),
        from: None,
        body: "hi".to_owned(),
        encoding: Encoding::Gsm7,
        segments: 1,
        validity_seconds: None,
        client_reference: None,
        dry_run: false,
    };
    let (id, now) = (Uuid::now_v7(), OffsetDateTime::now_utc());
    let plain = sms().into_envelope(&client, id, now, None);
    assert_eq!(
        (plain.user_id, plain.message_id, plain.submitted_at),
        (42, id, now)
    );
    assert_eq!(plain.key_digest, Some(client.key_digest));
    assert_eq!(
        (plain.expires_at, plain.client_reference, plain.request_hash),
        (None, None, None)
    );

    let with_all = Sms {
        validity_seconds: Some(60),
        client_reference: Some("order-4711".to_owned()),
        ..sms()
    };
    let hash = with_all.request_hash().to_hex();
    assert_eq!(hash.len(), 32);
    let full = with_all.into_envelope(&client, id, now, Some(hash.clone()));
    assert_eq!(full.expires_at, Some(now + Duration::minutes(1)));
    assert_eq!(full.client_reference.as_deref(), Some("order-4711"));
    assert_eq!(full.request_hash, Some(hash));
}

#[test]
fn who_asks_for_more_than_a_whole_quota_is_not_told_to_come_back_at_midnight() {
    let state = |quota, left| QuotaState {
        quota,
        left,
        resets_in: 60,
    };
    for (state, segments, comes_back) in [
        (state(10, 2), 3, true),
        (state(10, 0), 10, true),
        (state(10, 10), 11, false),
        (state(0, 0), 1, false),
    ] {
        let problem = quota_exceeded(state, segments);
        let response = problem.into_response();
        let (status, headers) = (response.status(), response.headers());
        assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(
            headers.contains_key("retry-after"),
            comes_back,
            "{segments} of {state:?}"
        );
        assert!(headers.contains_key("ratelimit"));
    }
}
