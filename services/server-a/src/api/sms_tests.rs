use super::*;

fn sms(json: &str) -> Result<Sms, (StatusCode, String)> {
    parse(json.as_bytes())
        .and_then(Sms::try_from)
        .map_err(|problem| (problem.status(), format!("{problem:?}")))
}

fn with_body(body: &str) -> Result<Sms, (StatusCode, String)> {
    sms(&serde_json::json!({"to": "+14155550123", "body": body}).to_string())
}

#[test]
fn a_valid_sms_is_normalised() {
    let sms = sms(r#"{"to": "+1 415 555 0123", "from": "+44 20 7946 0958", "body": "hi €"}"#)
        .expect("valid");
    assert_eq!(sms.to, "+14155550123");
    assert_eq!(sms.from.as_deref(), Some("+442079460958"));
    assert_eq!(sms.body, "hi €");
    assert_eq!((sms.encoding, sms.segments), (Encoding::Gsm7, 1));
}

#[test]
fn from_may_be_left_out_or_null() {
    for json in [
        r#"{"to": "+14155550123", "body": "hi"}"#,
        r#"{"to": "+14155550123", "body": "hi", "from": null}"#,
    ] {
        assert_eq!(sms(json).expect("valid").from, None);
    }
}

#[test]
fn the_first_invalid_field_is_named_and_its_content_is_not_repeated() {
    for (json, field) in [
        (r#"{"body": "SECRET"}"#, "to"),
        (r#"{"to": "SECRET", "from": "!!", "body": ""}"#, "to"),
        (r#"{"to": 5550123, "body": "SECRET"}"#, "to"),
        (r#"{"to": null, "body": "SECRET"}"#, "to"),
        (
            r#"{"to": "+14155550123", "from": "SECRET SECRET", "body": "hi"}"#,
            "from",
        ),
        (
            r#"{"to": "+14155550123", "from": "", "body": "SECRET"}"#,
            "from",
        ),
        (r#"{"to": "+14155550123"}"#, "body"),
        (r#"{"to": "+14155550123", "body": " \n"}"#, "body"),
        (r#"{"to": "+14155550123", "body": ["SECRET"]}"#, "body"),
        (r#"{"to": "+14155550123", "body": "SECRET\u0000"}"#, "body"),
        (
            r#"{"to": "+14155550123", "body": "hi", "form": "SECRET"}"#,
            "form",
        ),
        (
            r#"{"to": "+14155550123", "body": "hi", "a.b": "SECRET"}"#,
            "a.b",
        ),
    ] {
        let (status, text) = sms(json).err().expect(json);
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{json}");
        assert!(
            text.contains(&format!("field: Some(\"{field}\")")),
            "{json}: {text}"
        );
        assert!(
            !text.contains("SECRET") && !text.contains("5550123,"),
            "{json}: {text}"
        );
    }
}

#[test]
fn malformed_json_is_located_and_not_repeated() {
    for (json, place) in [
        ("{\"to\": \"+1\",\n \"body\": SECRET}", "line 2, column 10"),
        ("{\"to\": \"SECRET", "line 1"),
        (
            r#"{"to": "+14155550123", "body": "hi"} SECRET"#,
            "line 1, column 38",
        ),
        ("", "must be a JSON object"),
        (
            "[\"+14155550123\", null, \"SECRET\"]",
            "must be a JSON object",
        ),
        ("\"SECRET\"", "must be a JSON object"),
        (
            r#"{"to": "+14155550123", "to": "SECRET", "body": "hi"}"#,
            "each field once",
        ),
    ] {
        let (status, text) = sms(json).err().expect(json);
        assert_eq!(status, StatusCode::BAD_REQUEST, "{json}");
        assert!(
            text.contains("malformed_json") && text.contains(place),
            "{json}: {text}"
        );
        assert!(!text.contains("SECRET"), "{json}: {text}");
    }
}

#[test]
fn an_sms_has_ten_segments_at_most() {
    assert_eq!(with_body(&"a".repeat(1530)).expect("fits").segments, 10);
    assert!(with_body(&"a".repeat(1531)).is_err());
    assert_eq!(with_body(&"я".repeat(670)).expect("fits").segments, 10);
    assert!(with_body(&"я".repeat(671)).is_err());
}

#[test]
fn the_longest_sms_fits_into_the_body_limit_even_escaped() {
    let escaped = r"\u0061".len() * 1530;
    assert!(escaped + EXPECTED.len() < MAX_BODY_BYTES);
}

#[test]
fn the_optional_fields_are_taken_within_their_limits() {
    let with = |fields: &str| {
        sms(&format!(
            r#"{{"to": "+14155550123", "body": "hi", {fields}}}"#
        ))
    };
    let longest = "ä".repeat(64);
    for (fields, validity, reference, dry_run) in [
        (
            r#""validity_seconds": 60"#.to_owned(),
            Some(60),
            None,
            false,
        ),
        (
            r#""validity_seconds": 259200"#.to_owned(),
            Some(259_200),
            None,
            false,
        ),
        (
            r#""validity_seconds": null, "dry_run": null"#.to_owned(),
            None,
            None,
            false,
        ),
        (
            r#""client_reference": "order 47/11 ✓", "dry_run": true"#.to_owned(),
            None,
            Some("order 47/11 ✓"),
            true,
        ),
        (
            format!(r#""client_reference": "{longest}", "dry_run": false"#),
            None,
            Some(longest.as_str()),
            false,
        ),
    ] {
        let sms = with(&fields).expect("valid");
        assert_eq!(
            (
                sms.validity_seconds,
                sms.client_reference.as_deref(),
                sms.dry_run
            ),
            (validity, reference, dry_run),
            "{fields}"
        );
    }
    for (fields, field) in [
        (r#""validity_seconds": 59"#, "validity_seconds"),
        (r#""validity_seconds": 259201"#, "validity_seconds"),
        (r#""validity_seconds": -60"#, "validity_seconds"),
        (r#""validity_seconds": 60.5"#, "validity_seconds"),
        (r#""validity_seconds": "60""#, "validity_seconds"),
        (r#""client_reference": """#, "client_reference"),
        (r#""client_reference": "a\nb""#, "client_reference"),
        (r#""client_reference": 4711"#, "client_reference"),
        (
            &format!(r#""client_reference": "{longest}a""#),
            "client_reference",
        ),
        (r#""dry_run": "yes""#, "dry_run"),
    ] {
        let (status, text) = with(fields).err().expect(fields);
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{fields}");
        assert!(
            text.contains(&format!("field: Some(\"{field}\")")),
            "{fields}: {text}"
        );
    }
}

#[test]
fn the_hash_is_of_what_is_asked_for_and_not_of_how_it_is_written() {
    let hash = |json: &str| sms(json).expect("valid").request_hash();
    let one = hash(r#"{"to": "+1 415 555 0123", "body": "hi", "from": null}"#);
    assert_eq!(one, hash(r#"{ "body": "\u0068i", "to": "+14155550123" }"#));
    for other in [
        r#"{"to": "+14155550124", "body": "hi"}"#,
        r#"{"to": "+14155550123", "body": "hi "}"#,
        r#"{"to": "+14155550123", "body": "hi", "from": "ACME"}"#,
        r#"{"to": "+14155550123", "body": "hi", "validity_seconds": 60}"#,
        r#"{"to": "+14155550123", "body": "hi", "client_reference": "a"}"#,
    ] {
        assert_ne!(one, hash(other), "{other}");
    }
}

#[test]
fn json_is_told_by_its_media_type() {
    for (value, expected) in [
        ("application/json", true),
        ("Application/JSON; charset=utf-8", true),
        ("application/x-www-form-urlencoded", false),
        ("text/json", false),
    ] {
        let headers = [(header::CONTENT_TYPE, value.parse().expect("a value"))];
        assert_eq!(is_json(&headers.into_iter().collect()), expected, "{value}");
    }
    assert!(!is_json(&HeaderMap::new()));
}

#[tokio::test]
async fn a_body_that_does_not_arrive_times_out() {
    let pending = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
    let request = Request::new(axum::body::Body::from_stream(pending));
    let problem = read_body(request, &(), Duration::from_millis(1))
        .await
        .expect_err("nothing arrives");
    assert_eq!(problem.status(), StatusCode::REQUEST_TIMEOUT);
}
