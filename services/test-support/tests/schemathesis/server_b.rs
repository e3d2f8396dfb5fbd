use test_support::Schemathesis;
use test_support::app::{ADMIN_TOKEN, App, Setup};

#[test]
#[ignore = "needs Schemathesis"]
fn server_b_answers_as_its_document_promises() {
    let (setup, guards) = Setup::shared();
    let mut app = App::new(setup, Some(guards));
    app.start_all(0);
    let url = &app.server_b.as_ref().expect("server B runs").url;
    let run = Schemathesis::of(&format!("{url}/openapi.json"))
        .header("Authorization", &format!("Bearer {ADMIN_TOKEN}"))
        .run();
    if let Err(error) = run {
        panic!("{error:#}");
    }
}
