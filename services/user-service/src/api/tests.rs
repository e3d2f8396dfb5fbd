//! What the API answers without a database: its address leads nowhere.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Request, header};
use serde_json::Value;
use sqlx::postgres::PgPoolOptions;
use tower::ServiceExt;

use super::router;

async fn get(path: &str) -> (u16, String, Value) {
    let pool = PgPoolOptions::new()
        .acquire_timeout(Duration::from_millis(200))
        .connect_lazy("postgres://nobody@127.0.0.1:1/none")
        .expect("a valid URL");
    let request = Request::get(path).body(Body::empty());
    let response = router(pool)
        .expect("the description is JSON")
        .oneshot(request.expect("a valid request"))
        .await
        .expect("infallible");
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, 1 << 20).await.expect("a short body");
    let content_type = parts.headers[header::CONTENT_TYPE].to_str();
    (
        parts.status.as_u16(),
        content_type.expect("text").to_owned(),
        serde_json::from_slice(&body).expect("JSON"),
    )
}

#[tokio::test]
async fn invalid_parameters_are_named() {
    for (query, status, field) in [
        ("limit=0", 422, Some("limit")),
        ("limit=1001", 422, Some("limit")),
        ("limit=many", 422, Some("limit")),
        ("cursor=x", 422, Some("cursor")),
        ("offset=1", 422, Some("offset")),
    ] {
        let (seen, content_type, problem) =
            get(&format!("/api/v1/auth-user-references?{query}")).await;
        assert_eq!(
            (seen, problem["field"].as_str()),
            (status, field),
            "{query}"
        );
        assert_eq!(content_type, "application/problem+json");
    }
}

#[tokio::test]
async fn a_database_that_is_away_is_a_503_and_an_unknown_path_a_404() {
    for (path, status, code) in [
        ("/api/v1/auth-user-references", 503, "database_unavailable"),
        (
            "/api/v1/auth-user-references/1",
            503,
            "database_unavailable",
        ),
        ("/api/v1/auth-user-references/x", 404, "reference_not_found"),
        ("/api/v1/nothing", 404, "not_found"),
    ] {
        let (seen, _, problem) = get(path).await;
        assert_eq!(
            (seen, problem["code"].as_str()),
            (status, Some(code)),
            "{path}"
        );
    }
}

#[tokio::test]
async fn the_description_is_openapi_3_1_and_tells_every_route_and_answer() {
    let (status, content_type, api) = get("/openapi.json").await;
    assert_eq!((status, content_type.as_str()), (200, "application/json"));
    let version = api["openapi"].as_str().expect("a version");
    assert!(version.starts_with("3.1"), "{version}");
    let list = &api["paths"]["/api/v1/auth-user-references"]["get"];
    let one = &api["paths"]["/api/v1/auth-user-references/{user_id}"]["get"];
    for (route, answers) in [
        (list, ["200", "422", "500", "503"].as_slice()),
        (one, ["200", "404", "500", "503"].as_slice()),
    ] {
        for answer in answers {
            assert!(route["responses"][answer].is_object(), "{answer}: {route}");
        }
    }
    let fields = &api["components"]["schemas"]["AuthUserReference"]["properties"];
    for field in ["user_id", "username", "email", "occurred_at", "created_at"] {
        assert!(fields[field].is_object(), "{field}: {fields}");
    }
    assert_eq!(fields["occurred_at"]["format"], "date-time");
}
