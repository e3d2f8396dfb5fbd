use super::Api;

async fn names(api: &Api, query: &str) -> Vec<String> {
    let page = api.done(200, "GET", &format!("/users?{query}"), "").await;
    let users = page["users"].as_array().expect("users").iter();
    users
        .map(|user| user["username"].as_str().expect("a name").to_owned())
        .collect()
}

#[tokio::test]
async fn lists_show_the_users_that_a_filter_lets_through() {
    let api = Api::start().await;
    for name in ["alice", "alfred", "al%", "bob", "älva"] {
        api.user(name).await;
    }
    api.sql("UPDATE users SET is_active = false WHERE username = 'alfred'");
    api.sql("UPDATE users SET created_at = '2020-05-01' WHERE username = 'bob'");
    assert_eq!(
        names(&api, "username_prefix=al").await,
        ["alice", "alfred", "al%"]
    );
    assert_eq!(names(&api, "username_prefix=al%25").await, ["al%"]);
    assert_eq!(names(&api, "username_prefix=%C3%A4").await, ["älva"]);
    assert_eq!(
        names(&api, "username_prefix=al&is_active=false").await,
        ["alfred"]
    );
    assert_eq!(names(&api, "is_active=true&limit=1").await, ["alice"]);
    assert_eq!(
        names(&api, "created_before=2020-05-02T00:00:00Z").await,
        ["bob"]
    );
    assert_eq!(
        names(&api, "created_after=2020-05-02T00:00:00Z&username=bob").await,
        [""; 0]
    );
    assert_eq!(names(&api, "username=bob").await, ["bob"]);
    for query in [
        "is_active=maybe",
        "created_after=today",
        "username=%00",
        "username_prefix=a%00",
    ] {
        api.done(422, "GET", &format!("/users?{query}"), "").await;
    }
}

#[tokio::test]
async fn filters_use_their_indexes() {
    let api = Api::start().await;
    api.sql("INSERT INTO users (username) SELECT md5(n::text) FROM generate_series(1, 20000) n; ANALYZE users");
    for (condition, index) in [
        (
            "username ~>=~ 'abc' AND username ~<~ 'abd'",
            "users_username_prefix",
        ),
        ("NOT is_active", "users_inactive"),
    ] {
        let plan = api.sql(&format!("EXPLAIN SELECT * FROM users WHERE {condition}"));
        assert!(plan.contains(index), "{plan}");
    }
}
