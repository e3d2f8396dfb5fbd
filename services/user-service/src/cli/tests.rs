use clap::{CommandFactory, Parser};

use super::Cli;

fn parses(arguments: &[&str]) -> bool {
    let line = ["user-service"].iter().chain(arguments);
    Cli::try_parse_from(line).is_ok()
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn the_broker_and_its_names_have_the_defaults_of_the_requirement() {
    let help = Cli::command()
        .find_subcommand_mut("serve")
        .expect("known")
        .render_long_help()
        .to_string();
    for text in [
        "amqp://guest:guest@rabbitmq:5672/",
        "auth_events_exchange",
        "user.created",
        "user_service.user_created",
        "user_service.user_created.dead",
        "RABBITMQ_URL",
        "DATABASE_URL",
    ] {
        assert!(help.contains(text), "{text} is not in\n{help}");
    }
}

#[test]
fn secrets_are_not_in_the_debug_form() {
    let cli = Cli::try_parse_from([
        "user-service",
        "serve",
        "--database-url=postgres://u:canary@db/users",
        "--rabbitmq-url=amqp://u:canary@broker/",
    ]);
    assert!(!format!("{:?}", cli.expect("known")).contains("canary"));
}

#[test]
fn limits_are_positive_and_shares_below_a_hundred() {
    assert!(parses(&["dead-letters", "requeue", "--limit", "1"]));
    assert!(!parses(&["dead-letters", "requeue", "--limit", "0"]));
    assert!(!parses(&["dead-letters", "list", "--limit", "0"]));
    assert!(parses(&[
        "auth-events",
        "--count",
        "1",
        "--duplicates-percent",
        "99"
    ]));
    assert!(!parses(&[
        "auth-events",
        "--count",
        "1",
        "--duplicates-percent",
        "100"
    ]));
}
