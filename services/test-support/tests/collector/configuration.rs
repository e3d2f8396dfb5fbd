//! The configurations are what the real collector takes.

use std::process::Command;

use crate::{observability, program};

fn validate(configs: &[&str], environment: &[(&str, &str)]) -> (bool, String) {
    let mut command = Command::new(program());
    command.arg("validate").envs(environment.iter().copied());
    for config in configs {
        command.arg("--config").arg(observability().join(config));
    }
    let output = command.output().expect("the collector runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.success(), said)
}

#[test]
#[ignore = "needs the collector"]
fn the_collector_takes_both_configurations() {
    let base = "otel-collector.yaml";
    let backend = [("OTLP_BACKEND_ENDPOINT", "tempo:4317")];
    let file = [("TRACES_FILE", "traces.jsonl")];
    for (ok, said) in [
        validate(&[base], &backend),
        validate(&[base, "otel-collector-file.yaml"], &file),
    ] {
        assert!(ok, "{said}");
    }
}

#[test]
#[ignore = "needs the collector"]
fn without_a_backend_the_collector_says_what_is_missing() {
    let (ok, said) = validate(&["otel-collector.yaml"], &[]);
    assert!(
        !ok && said.contains("otlp_grpc") && said.contains("endpoint"),
        "{said}"
    );
}
