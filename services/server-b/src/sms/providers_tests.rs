use super::*;

const FILE: &str = "
providers:
  acme:
    http:
      url: https://gateway.example/v1/messages
      auth: {bearer: {env: PATH}}
      request: {to: recipient, from: sender, body: /content/text, constant: {priority: 1}}
      idempotency: {field: reference}
      message_id: /data/id
      statuses: {retryable: [409]}
      receipts:
        auth: {header: {name: X-Secret, value: {env: PATH}}}
        message_id: /id
        status: /status
        statuses:
          DELIVRD: {status: delivered}
          UNDELIV: {status: undelivered, error_code: absent_subscriber}
          ENROUTE: {status: ignore}
  log: log
routes:
  - {prefix: '+1', providers: [acme, log], fall_over_when_refused: true}
  - {prefix: '', providers: [log]}
";

fn error(text: &str) -> String {
    match Providers::parse(text) {
        Ok(_) => panic!("taken:\n{text}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_file_is_read() {
    let providers = Providers::parse(FILE).unwrap_or_else(|error| panic!("{error}"));
    let route = providers.routes.find("+14155550123").expect("a route");
    assert_eq!(route.providers.len(), 2);
    assert!(route.fall_over_when_refused);
    let rules = &providers.receipts["acme"];
    let receipt = rules.read(&serde_json::json!({"id": 7, "status": "UNDELIV"}));
    let receipt = receipt.expect("a receipt");
    assert_eq!(receipt.provider_message_id, "7");
    assert_eq!(
        receipt.meaning,
        Meaning::Undelivered(ErrorCode::AbsentSubscriber)
    );
}

#[test]
fn an_error_names_the_field_that_is_wrong() {
    let cases = [
        (
            "https://gateway.example/v1/messages",
            "gateway",
            "providers.acme.http.url",
        ),
        (
            "https://gateway.example",
            "https://me:secret@gateway.example",
            "providers.acme.http.url",
        ),
        ("/data/id", "//", "providers.acme.http.message_id"),
        (
            "/content/text",
            "/priority/text",
            "providers.acme.http.request.body",
        ),
        (
            "message_id: /data/id",
            "timeout_seconds: 5",
            "providers.acme.http.message_id",
        ),
        ("[409]", "[7]", "providers.acme.http.statuses.retryable"),
        (
            "[409]",
            "[many]",
            "providers.acme.http.statuses.retryable[0]",
        ),
        (
            "X-Secret",
            "no header",
            "providers.acme.http.receipts.auth.header.name",
        ),
        (
            "absent_subscriber",
            "quota_exceeded",
            "providers.acme.http.receipts.statuses.UNDELIV.error_code",
        ),
        (
            "status: ignore",
            "status: lost",
            "providers.acme.http.receipts.statuses.ENROUTE.status",
        ),
        (
            "{bearer: {env: PATH}}",
            "{bearer: {env: NO_SUCH_VARIABLE}}",
            "providers.acme.http.auth.bearer",
        ),
        (
            "{bearer: {env: PATH}}",
            "{bearer: {file: /no/such/file}}",
            "providers.acme.http.auth.bearer",
        ),
        ("  log: log", "  other: log", "providers.other"),
        ("'+1'", "'1'", "routes[0].prefix"),
        ("'+1'", "''", "routes[1].prefix"),
        ("[acme, log]", "[acme, lgo]", "routes[0].providers"),
        ("[acme, log]", "[]", "routes[0].providers"),
    ];
    for (good, bad, field) in cases {
        assert!(FILE.contains(good), "{good}");
        let error = error(&FILE.replacen(good, bad, 1));
        let named = format!("PROVIDERS_FILE, {field}: ");
        assert!(error.starts_with(&named), "{bad}: {error}");
    }
}

#[test]
fn an_unknown_field_is_refused_by_its_name() {
    let error = error(&FILE.replacen("idempotency:", "idempotence:", 1));
    assert!(error.contains("providers.acme.http"), "{error}");
    assert!(error.contains("idempotence"), "{error}");
}

#[test]
fn an_error_quotes_no_value_since_it_may_be_a_secret() {
    let cases = [
        (
            "{bearer: {env: PATH}}",
            "{bearer: s3cr3t}",
            "http.auth.bearer: ",
        ),
        ("{bearer: {env: PATH}}", "s3cr3t", "http.auth: "),
        (
            "{bearer: {env: PATH}}",
            "{bearer: {s3cr3t: x}}",
            "http.auth.bearer: ",
        ),
        (
            "{bearer: {env: PATH}}",
            "{bearer: [s3cr3t]}",
            "http.auth.bearer",
        ),
        (
            "statuses: {retryable: [409]}",
            "timeout_seconds: s3cr3t",
            "http.timeout_seconds: ",
        ),
        (
            "{bearer: {env: PATH}}",
            "{bearer: \"s3cr3t",
            "PROVIDERS_FILE, ",
        ),
        (
            "{bearer: {env: PATH}}",
            "{bearer: s3cr3t: x}",
            "PROVIDERS_FILE, ",
        ),
        ("{bearer: {env: PATH}}", "*s3cr3t", "PROVIDERS_FILE, "),
    ];
    for (good, bad, place) in cases {
        let error = error(&FILE.replacen(good, bad, 1));
        assert!(!error.contains("s3cr3t"), "{bad}: {error}");
        assert!(error.contains(place), "{bad}: {error}");
    }
}

#[test]
fn what_is_missing_is_named() {
    let error = error(&FILE.replacen("      url: https://gateway.example/v1/messages\n", "", 1));
    assert!(error.ends_with("missing field `url`"), "{error}");
}

#[test]
fn what_is_no_yaml_and_an_empty_file_are_refused() {
    for text in ["{", "", "routes: []"] {
        assert!(error(text).starts_with("PROVIDERS_FILE, "), "{text}");
    }
}
