use std::collections::BTreeSet;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request};
use serde_json::Value;
use tower::ServiceExt;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::{ApiState, send, status};
use super::*;

fn document() -> Document {
    OpenApiRouter::<ApiState>::with_openapi(Description::openapi())
        .routes(routes!(send::send))
        .routes(routes!(status::one))
        .routes(routes!(status::list))
        .into_openapi()
}

async fn get_path(path: &str) -> (u16, HeaderMap, String) {
    let router = router::<()>(&document()).expect("the document is JSON");
    let request = Request::get(path).body(Body::empty()).expect("a request");
    let (parts, body) = router
        .oneshot(request)
        .await
        .expect("infallible")
        .into_parts();
    let body = to_bytes(body, usize::MAX).await.expect("a body");
    let text = String::from_utf8_lossy(&body).into_owned();
    (parts.status.as_u16(), parts.headers, text)
}

/// What stands in the attributes of this name.
fn attributes<'a>(page: &'a str, name: &str) -> Vec<&'a str> {
    let name = format!("{name}=\"");
    let values = page.split(name.as_str()).skip(1);
    values.filter_map(|rest| rest.split('"').next()).collect()
}

#[tokio::test]
async fn the_page_loads_only_what_this_process_serves_and_runs_no_script_within_itself() {
    let (status, headers, page) = get_path("/docs/").await;
    assert_eq!(status, 200);
    assert_eq!(headers[header::CONTENT_TYPE], "text/html");
    let policy = headers[header::CONTENT_SECURITY_POLICY]
        .to_str()
        .expect("text");
    assert!(policy.contains("script-src 'self';") && policy.starts_with("default-src 'none'"));
    let files = [attributes(&page, "src"), attributes(&page, "href")].concat();
    assert!(files.len() >= 4, "{page}");
    for file in files {
        assert!(!file.contains("//"), "{file}");
        let path = format!("/docs/{}", file.trim_start_matches("./"));
        let (status, _, text) = get_path(&path).await;
        assert_eq!((status, text.is_empty()), (200, false), "{path}");
    }
    let scripts = page.split("<script").skip(1);
    for script in scripts {
        let (tag, rest) = script.split_once('>').expect("a tag");
        assert!(
            tag.contains("src=") && rest.trim_start().starts_with("</script"),
            "{script}"
        );
    }
    let (_, _, settings) = get_path("/docs/swagger-initializer.js").await;
    assert!(
        settings.contains("/openapi.json") && !settings.contains("http"),
        "{settings}"
    );
    assert_eq!(get_path("/docs").await.0, 308);
    assert_eq!(get_path("/docs/no-such-file").await.0, 404);
}

#[tokio::test]
async fn a_problems_type_leads_to_its_place_on_the_page() {
    let (status, headers, page) = get_path("/errors").await;
    assert_eq!(status, 200);
    assert!(headers.contains_key(header::CONTENT_SECURITY_POLICY));
    for kind in problems::catalogue() {
        let (status, headers, _) = get_path(&kind.uri()).await;
        let place = headers[header::LOCATION].to_str().expect("text");
        assert_eq!(
            (status, place),
            (303, format!("/errors#{}", kind.code).as_str())
        );
        assert!(
            page.contains(&format!("id=\"{}\"", kind.code)),
            "{}",
            kind.code
        );
    }
    assert_eq!(get_path("/errors/no_such_code").await.0, 404);
}

#[tokio::test]
async fn the_document_is_openapi_3_1_and_tells_every_answer_of_every_operation() {
    let (_, headers, text) = get_path("/openapi.json").await;
    assert_eq!(headers[header::CONTENT_TYPE], "application/json");
    let api: Value = serde_json::from_str(&text).expect("JSON");
    assert!(
        api["openapi"]
            .as_str()
            .is_some_and(|it| it.starts_with("3.1"))
    );
    let schemes = &api["components"]["securitySchemes"];
    assert_eq!(schemes["api_key"]["name"], "API-Key");
    assert_eq!(schemes["bearer"]["scheme"], "bearer");
    for (path, method, success, problems) in [
        (
            "/api/v1/sms/send",
            "post",
            &["200", "202"][..],
            problems::of_send(),
        ),
        (
            "/api/v1/sms/{message_id}",
            "get",
            &["200"],
            problems::of_one(),
        ),
        ("/api/v1/sms", "get", &["200"], problems::of_list()),
    ] {
        let operation = &api["paths"][path][method];
        assert_eq!(
            operation["security"].as_array().map(Vec::len),
            Some(2),
            "{path}"
        );
        let answers = operation["responses"].as_object().expect("answers");
        let expected = problems.iter().map(|kind| kind.status.as_u16().to_string());
        let expected: BTreeSet<String> = expected
            .chain(success.iter().map(ToString::to_string))
            .collect();
        assert_eq!(
            answers.keys().cloned().collect::<BTreeSet<_>>(),
            expected,
            "{path}"
        );
        for kind in problems {
            let answer = &answers[&kind.status.as_u16().to_string()];
            let description = answer["description"].as_str().expect("a description");
            assert!(
                description.contains(&format!("`{}`", kind.code)),
                "{description}"
            );
            let schema = &answer["content"]["application/problem+json"]["schema"]["$ref"];
            assert_eq!(schema, "#/components/schemas/Problem");
            let says_when = [429, 503].contains(&kind.status.as_u16());
            assert_eq!(
                answer["headers"]["Retry-After"].is_object(),
                says_when,
                "{description}"
            );
        }
    }
    let send = &api["paths"]["/api/v1/sms/send"]["post"]["responses"];
    for answer in ["200", "202", "429"] {
        for header in ["RateLimit", "RateLimit-Policy"] {
            assert!(
                send[answer]["headers"][header].is_object(),
                "{answer} {header}"
            );
        }
    }
    // Every reference leads somewhere.
    for target in attributes_json(&text, "$ref") {
        let pointer = target.trim_start_matches('#');
        assert!(api.pointer(pointer).is_some(), "{target}");
    }
}

fn attributes_json<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let name = format!("\"{name}\":\"");
    let values = text.split(name.as_str()).skip(1);
    values.filter_map(|rest| rest.split('"').next()).collect()
}
