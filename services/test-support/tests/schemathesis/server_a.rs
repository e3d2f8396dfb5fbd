use test_support::Schemathesis;
use test_support::app::{App, Setup, Verdict};

/// What a JSON schema cannot say: which lengths the numbers of a country have, how many segments a text is split into, and
/// which cursors server B has given. Sends are not retried against the quota, so it is never used up.
const CONFIG: &str = r#"
[checks]
positive_data_acceptance.expected-statuses = ["2xx", 401, 403, 404, 409, 422]
"#;

#[test]
#[ignore = "needs Schemathesis"]
fn server_a_answers_as_its_document_promises() {
    let (mut setup, guards) = Setup::shared();
    let token = "service-token-0123456789".to_owned();
    setup.environment.push(("SERVICE_TOKEN".to_owned(), token));
    let mut app = App::new(setup, Some(guards));
    app.start_all_asking(1);
    let user = app.create_user("alice");
    app.everywhere(&user.key, Verdict::Accepted);

    let url = &app.replicas[0].url;
    let run = Schemathesis::of(&format!("{url}/openapi.json"))
        .header("API-Key", &user.key)
        .config(CONFIG)
        .run();
    if let Err(error) = run {
        panic!("{error:#}");
    }
}
