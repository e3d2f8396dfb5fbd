//! The API over real rows.

use serde_json::Value;
use test_support::app::DEADLINE;

use crate::harness::UserService;

const LIST: &str = "/api/v1/auth-user-references";

#[test]
fn references_are_listed_page_by_page_and_found_by_id() {
    let (mut users, _database, _vhost) = UserService::shared();
    users.start(1);
    assert_eq!(
        users.get(LIST).text,
        r#"{"auth_user_references":[],"next_cursor":null}"#
    );
    users.auth_events(&["--count", "25", "--first-id", "1"]);
    users.wait_stored(DEADLINE, 25);

    let mut seen = Vec::new();
    let mut sizes = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = users.get(&format!("{LIST}?limit=10{cursor}")).body;
        let items = page["auth_user_references"].as_array().expect("a list");
        sizes.push(items.len());
        seen.extend(items.iter().map(|item| item["user_id"].as_i64()));
        let Value::Number(next) = &page["next_cursor"] else {
            break;
        };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(sizes, [10, 10, 5]);
    assert_eq!(seen, (1..=25).map(Some).collect::<Vec<_>>());
    // A page that is just full is the last one.
    assert_eq!(
        users.get(&format!("{LIST}?limit=25")).body["next_cursor"],
        Value::Null
    );

    let one = users.get(&format!("{LIST}/7"));
    assert_eq!((one.status, &one.body["username"]), (200, &"user-7".into()));
    assert_eq!(one.body["email"], "user-7@example.com");
    assert_eq!(one.body["occurred_at"], "1970-01-01T00:00:00.000007Z");
    assert!(one.body["created_at"].is_string());

    let none = users.get(&format!("{LIST}/26"));
    assert_eq!(none.status, 404);
    assert_eq!(none.content_type, "application/problem+json");
    assert_eq!(none.body["code"], "reference_not_found");

    let description = users.get("/openapi.json").body;
    let paths = description["paths"].as_object().expect("paths");
    let paths: Vec<_> = paths.keys().map(String::as_str).collect();
    assert_eq!(paths, [LIST, "/api/v1/auth-user-references/{user_id}"]);
}
