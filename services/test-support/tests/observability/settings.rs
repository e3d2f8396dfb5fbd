//! A variable that is not understood is found at the start.

use test_support::ServiceCommand;
use test_support::app::DEADLINE;

#[test]
fn a_process_refuses_an_otel_variable_that_it_does_not_understand_and_names_it() {
    for (name, value, says) in [
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "collector:4317",
            "must begin with http:// or https://",
        ),
        (
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            "http/json",
            "must be grpc or http/protobuf, not `http/json`",
        ),
        ("OTEL_TRACES_SAMPLER_ARG", "2", "must be from 0 to 1"),
    ] {
        for (service, arguments) in [
            ("server-a", &[][..]),
            ("server-b", &["users", "list"]),
            ("user-service", &["serve"]),
        ] {
            let command = ServiceCommand::new(service)
                .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
                .env("OTEL_TRACES_SAMPLER", "traceidratio")
                .env("DATABASE_URL", "postgres://nobody@127.0.0.1:9/none")
                .env(name, value);
            let command = arguments
                .iter()
                .fold(command, |command, argument| command.arg(*argument));
            let process = command.start().expect("it starts");
            let status = process.wait_exit(DEADLINE).expect("it ends");
            let said = process.output();
            assert!(!status.success(), "{service} took {name}={value}");
            assert!(
                said.contains(name) && said.contains(says),
                "{service}: {said}"
            );
        }
    }
}
