//! One example of each message, pinned: a change of a name or a shape fails here.
//! `UPDATE_FIXTURES=1 cargo test -p wire-contract` writes them anew.

use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;
use time::macros::datetime;
use uuid::Uuid;
use wire_contract::{
    Admission, ApiKey, Bookmark, ConfigEvent, DIGEST_VERSION, Encoding, KeyDigest, Position,
    PreviousKey, ProbeAnswer, ReplicaPing, ReplicaProbe, ReplicaReport, SmsEnvelope, SmsPage,
    SmsRecord, SmsStatus, SmsTransition, SmsUsage, SnapshotAborted, SnapshotCause, SnapshotChunk,
    SnapshotCompleted, SnapshotCredit, SnapshotRequest, SnapshotStarted, SyncAborted,
    SyncCompleted, SyncProgress, SyncStarted, UsageEntry, UserCreated, UserDeleted, UserRecord,
    UserSetDigest, UserUpdated, decode_json, encode_json, idempotent_message_id,
};

const ID: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001);
const AT: Position = Position {
    epoch: 1,
    sequence: 42,
};

fn user() -> UserRecord {
    UserRecord {
        user_id: 7,
        api_key: Some(ApiKey::Plain("isk_example".to_owned())),
        username: "acme".to_owned(),
        is_active: true,
        daily_quota: 1000,
        previous_keys: vec![PreviousKey {
            digest: KeyDigest::of("isk_previous"),
            expires_at: datetime!(2026-01-02 03:04:05.000006 UTC),
        }],
        version: 9,
    }
}

fn digest() -> UserSetDigest {
    UserSetDigest::of_user(&user())
}

#[track_caller]
fn pinned<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(name: &str, message: &T) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures")
        .join(format!("{name}.json"));
    let mut encoded = String::from_utf8(encode_json(message)).expect("JSON is UTF-8");
    encoded.push('\n');
    if std::env::var_os("UPDATE_FIXTURES").is_some() {
        std::fs::write(&path, &encoded).expect("fixture written");
    }
    let fixture = std::fs::read_to_string(&path).expect("fixture");
    assert_eq!(encoded, fixture, "{name} changed on the wire");
    let decoded: T = serde_json::from_str(&fixture).expect("fixture decodes");
    assert_eq!(&decoded, message);
}

#[test]
fn user_events_are_pinned() {
    let updated = UserUpdated {
        user: user(),
        epoch: 1,
        sequence: Some(42),
        sync_id: None,
        as_of: None,
        occurred_at: datetime!(2026-01-02 03:04:05 UTC),
    };
    pinned("user.updated", &updated);
    pinned(
        "user.updated-of-a-full-sync",
        &UserUpdated {
            user: UserRecord {
                api_key: Some(ApiKey::Digest(KeyDigest::of("isk_example"))),
                ..user()
            },
            sequence: None,
            sync_id: Some(ID),
            as_of: Some(42),
            ..updated
        },
    );
    pinned(
        "user.deleted",
        &UserDeleted {
            user_id: 7,
            api_key: Some(ApiKey::Plain("isk_example".to_owned())),
            version: 10,
            epoch: 1,
            sequence: 43,
            occurred_at: datetime!(2026-01-02 03:04:05 UTC),
        },
    );
    pinned(
        "bookmark",
        &Bookmark {
            position: AT,
            count: 1,
            digest: digest(),
            digest_version: DIGEST_VERSION,
            audited_at: Some(datetime!(2026-01-02 03:04:05 UTC)),
        },
    );
}

#[test]
fn probes_are_pinned() {
    pinned(
        "replica.probe",
        &ReplicaProbe {
            queue: "server-a.a-0.1".to_owned(),
            instance: "a-0".to_owned(),
        },
    );
    pinned(
        "probe.answer",
        &ProbeAnswer {
            bookmark_age_ms: Some(250),
        },
    );
}

#[test]
fn snapshots_are_pinned() {
    pinned(
        "snapshot.request",
        &SnapshotRequest {
            request_id: ID,
            queue: "server-a.a-0.1".to_owned(),
            instance: "a-0".to_owned(),
            cause: SnapshotCause::Connected,
        },
    );
    pinned(
        "snapshot.started",
        &SnapshotStarted {
            snapshot_id: ID,
            credit_queue: "server-b.1".to_owned(),
            window: 16,
            users: Some(2),
        },
    );
    pinned(
        "snapshot.chunk",
        &SnapshotChunk {
            snapshot_id: ID,
            index: 0,
            as_of: AT,
            users: vec![user()],
        },
    );
    pinned(
        "snapshot.completed",
        &SnapshotCompleted {
            snapshot_id: ID,
            position: AT,
            comparable_from: 43,
            count: 1,
            digest: digest(),
            digest_version: DIGEST_VERSION,
        },
    );
    pinned("snapshot.aborted", &SnapshotAborted { snapshot_id: ID });
    pinned(
        "snapshot.credit",
        &SnapshotCredit {
            snapshot_id: ID,
            queue: "server-a.a-0.1".to_owned(),
            chunks: 8,
        },
    );
}

#[test]
fn full_syncs_and_reports_are_pinned() {
    pinned(ReplicaPing::TYPE, &ReplicaPing { sent_us: 1_500_000 });
    pinned("sync.started", &SyncStarted { sync_id: ID });
    pinned(
        "sync.completed",
        &SyncCompleted {
            sync_id: ID,
            position: AT,
            comparable_from: 43,
            count: 1,
            digest: digest(),
            digest_version: DIGEST_VERSION,
        },
    );
    pinned("sync.aborted", &SyncAborted { sync_id: ID });
    pinned(
        "replica.report",
        &ReplicaReport {
            instance: "a-0".to_owned(),
            queue: "server-a.a-0.1".to_owned(),
            number: 17,
            ready: true,
            applied: AT,
            seen: AT,
            proven: Some(AT),
            users: 1,
            syncing: Some(SyncProgress {
                sync_id: ID,
                rows: 1,
            }),
            last_sync_id: None,
            fail_closed_after_ms: 15_000,
            reported_at: datetime!(2026-01-02 03:04:05 UTC),
        },
    );
}

#[test]
fn sms_and_auth_messages_are_pinned() {
    pinned(
        "sms.submitted",
        &SmsEnvelope {
            user_id: 7,
            message_id: ID,
            to: "+14155550123".to_owned(),
            from: Some("ACME".to_owned()),
            body: "text".to_owned(),
            encoding: Encoding::Gsm7,
            segments: 1,
            submitted_at: datetime!(2026-01-02 03:04:05 UTC),
            admission: Admission {
                epoch: 1,
                sequence: 42,
                cache_age_ms: 3,
            },
            expires_at: Some(datetime!(2026-01-02 04:04:05 UTC)),
            client_reference: Some("order 17".to_owned()),
            key_digest: Some(KeyDigest::of("isk_example")),
            request_hash: Some("5f1d7a84db00d2fce00b31a7fc73224f".to_owned()),
        },
    );
    pinned("sms.page", &page());
    pinned(
        "sms.usage",
        &SmsUsage {
            day: "2026-01-02".to_owned(),
            users: vec![
                UsageEntry {
                    user_id: 7,
                    segments: 3,
                    stored_until: Some(datetime!(2026-01-02 03:04:05.000006 UTC)),
                },
                // As server Bs write it that do not know the field.
                UsageEntry {
                    user_id: 8,
                    segments: 5,
                    stored_until: None,
                },
            ],
        },
    );
    pinned(
        "UserCreated",
        &UserCreated {
            event_type: "UserCreated".to_owned(),
            user_id: 123,
            username: "johndoe".to_owned(),
            email: "john@example.com".to_owned(),
            timestamp: 1_234_567_890.123,
        },
    );
}

fn page() -> SmsPage {
    let submitted_at = datetime!(2026-01-02 03:04:05 UTC);
    SmsPage {
        items: vec![SmsRecord {
            message_id: ID,
            status: SmsStatus::Rejected,
            to: "+14155550123".to_owned(),
            from: None,
            encoding: Encoding::Ucs2,
            segments: 2,
            client_reference: None,
            submitted_at,
            expires_at: datetime!(2026-01-03 03:04:05 UTC),
            error_code: Some("quota_exceeded".to_owned()),
            idempotency_conflicts: 1,
            history: vec![
                SmsTransition {
                    status: SmsStatus::Queued,
                    at: submitted_at,
                    error_code: None,
                },
                SmsTransition {
                    status: SmsStatus::Rejected,
                    at: datetime!(2026-01-02 03:04:06 UTC),
                    error_code: Some("quota_exceeded".to_owned()),
                },
            ],
        }],
        next_cursor: None,
    }
}

#[test]
fn an_sms_of_an_older_server_a_has_none_of_the_later_fields() {
    let body = br#"{"user_id":7,"message_id":"01900000-0000-7000-8000-000000000001","to":"+14155550123","from":null,
        "body":"text","encoding":"gsm7","segments":1,"submitted_at":"2026-01-02T03:04:05Z",
        "admission":{"epoch":1,"sequence":42,"cache_age_ms":3}}"#;
    let envelope: SmsEnvelope = decode_json("sms.submitted", body).expect("decodes");
    assert_eq!(envelope.expires_at, None);
    assert_eq!(envelope.request_hash, None);
}

#[test]
fn a_message_id_follows_from_user_and_idempotency_key_alone() {
    let id = idempotent_message_id(7, "order 17");
    // Pinned: other replicas, and later versions, must derive the same.
    assert_eq!(id.to_string(), "8e46733b-4dd0-8966-8ff7-8d665c23c62b");
    assert_eq!(id.get_version_num(), 8);
    assert_ne!(id, idempotent_message_id(8, "order 17"));
    assert_ne!(id, idempotent_message_id(7, "order 18"));
}

#[test]
fn every_status_is_read_as_it_is_written() {
    for status in SmsStatus::ALL {
        assert_eq!(status.as_str().parse(), Ok(status));
        assert_eq!(serde_json::to_value(status).expect("JSON"), status.as_str());
    }
    assert!("lost".parse::<SmsStatus>().is_err());
}

#[test]
fn unknown_fields_and_events_are_of_a_later_version() {
    let body = br#"{"sync_id":"01900000-0000-7000-8000-000000000001","colour":"blue"}"#;
    assert_eq!(
        ConfigEvent::decode("sync.started", body),
        Ok(Some(ConfigEvent::SyncStarted(SyncStarted { sync_id: ID })))
    );
    assert_eq!(ConfigEvent::decode("user.renamed", body), Ok(None));
}

#[test]
fn a_decode_error_does_not_quote_the_body() {
    let error = ConfigEvent::decode("user.updated", br#"{"user_id":"isk_canary"}"#)
        .expect_err("a string is not an id");
    assert!(!error.to_string().contains("canary"), "{error}");
}

#[test]
fn both_forms_of_a_key_have_the_same_digest() {
    let plain = ApiKey::Plain("isk_example".to_owned());
    let digest = ApiKey::Digest(KeyDigest::of("isk_example"));
    assert_eq!(plain.digest(), digest.digest());
    assert_eq!(format!("{plain:?}"), "ApiKey(…)");
}

#[test]
fn the_digest_does_not_depend_on_order_and_tells_every_field() {
    let mut sum = UserSetDigest::default();
    sum += digest();
    let other = UserRecord {
        user_id: 8,
        ..user()
    };
    sum += UserSetDigest::of_user(&other);
    let mut reversed = UserSetDigest::of_user(&other);
    reversed += digest();
    assert_eq!(sum, reversed);
    sum -= UserSetDigest::of_user(&other);
    assert_eq!(sum, digest());

    let changes: [fn(&mut UserRecord); 7] = [
        |user| user.user_id += 1,
        |user| user.version += 1,
        |user| user.username.push('x'),
        |user| user.is_active = false,
        |user| user.daily_quota += 1,
        |user| user.api_key = None,
        |user| user.previous_keys.clear(),
    ];
    for change in changes {
        let mut other = user();
        change(&mut other);
        assert_ne!(UserSetDigest::of_user(&other), digest());
    }
}
