use super::*;

const COLLECTOR: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");

fn settings(variables: &[(&str, &str)]) -> Result<Option<Settings>> {
    Settings::from_env(|wanted| {
        let found = variables.iter().find(|(name, _)| *name == wanted);
        found.map(|(_, value)| (*value).to_owned())
    })
}

fn wanted(more: &[(&str, &str)]) -> Settings {
    let settings = settings(&[&[COLLECTOR], more].concat());
    settings.expect("understood").expect("wanted")
}

#[test]
fn no_traces_are_wanted_without_an_endpoint_or_when_switched_off() {
    let off: [&[(&str, &str)]; 5] = [
        &[],
        &[("OTEL_TRACES_SAMPLER", "always_on")],
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")],
        &[COLLECTOR, ("OTEL_SDK_DISABLED", "True")],
        &[COLLECTOR, ("OTEL_TRACES_EXPORTER", "none")],
    ];
    for variables in off {
        assert!(
            settings(variables).expect("understood").is_none(),
            "{variables:?}"
        );
    }
}

#[test]
fn grpc_without_tls_and_a_parent_based_sampler_are_the_defaults() {
    let settings = wanted(&[]);
    assert_eq!(settings.protocol, Protocol::Grpc);
    assert!(!settings.tls);
    assert_eq!(
        format!("{:?}", settings.sampler),
        "ParentBased(OrLinked(AlwaysOn))"
    );
}

#[test]
fn what_is_set_for_traces_alone_wins() {
    let settings = wanted(&[
        (
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "https://traces.example",
        ),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"),
    ]);
    assert_eq!(settings.protocol, Protocol::Http);
    assert!(settings.tls);
    assert_eq!(
        settings.endpoint_variable,
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
    );
}

#[test]
fn every_standard_sampler_is_understood() {
    for (name, sampler) in [
        ("always_on", "AlwaysOn"),
        ("always_off", "AlwaysOff"),
        ("traceidratio", "TraceIdRatioBased(0.25)"),
        ("parentbased_always_on", "ParentBased(OrLinked(AlwaysOn))"),
        ("parentbased_always_off", "ParentBased(OrLinked(AlwaysOff))"),
        (
            "parentbased_traceidratio",
            "ParentBased(OrLinked(TraceIdRatioBased(0.25)))",
        ),
    ] {
        let settings = wanted(&[
            ("OTEL_TRACES_SAMPLER", name),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
        ]);
        assert_eq!(format!("{:?}", settings.sampler), sampler);
    }
}

#[test]
fn a_value_that_is_not_understood_is_refused_by_the_name_of_its_variable() {
    for (name, value) in [
        ("OTEL_SDK_DISABLED", "yes"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "grpc://collector:4317"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "/v1/traces"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_TRACES_SAMPLER", "parentbased_jaeger_remote"),
        ("OTEL_TRACES_SAMPLER_ARG", "10%"),
        ("OTEL_TRACES_SAMPLER_ARG", "1.5"),
        ("OTEL_TRACES_SAMPLER_ARG", "NaN"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a b=c"),
        ("OTEL_RESOURCE_ATTRIBUTES", "k8s.pod.name"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "-1"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "1000"),
        ("OTEL_PROPAGATORS", "b3"),
    ] {
        let ratio = ("OTEL_TRACES_SAMPLER", "traceidratio");
        let error = settings(&[(name, value), COLLECTOR, ratio]).expect_err(value);
        assert!(error.to_string().starts_with(name), "{error}");
    }
}

#[test]
fn saying_what_is_done_anyway_is_no_error() {
    wanted(&[
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "none"),
        ("OTEL_PROPAGATORS", "tracecontext,baggage"),
    ]);
}

#[test]
fn a_header_s_value_is_not_repeated_in_the_error() {
    let headers = ("OTEL_EXPORTER_OTLP_HEADERS", "a=b,Bearer hunter2");
    let error = settings(&[COLLECTOR, headers]).expect_err("no `=`");
    assert_eq!(
        error.to_string(),
        "OTEL_EXPORTER_OTLP_HEADERS: entry 2 is not of the form key=value"
    );
}
