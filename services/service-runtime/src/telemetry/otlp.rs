//! The standard `OTEL_*` variables. The SDK falls back to a default, silently, where one is not understood: a typing error
//! would be found weeks later, so each is checked here, and the error names it.

use std::fmt::Display;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use axum::http::{HeaderName, Uri};
use opentelemetry_sdk::trace::Sampler;

use crate::trace::OrLinked;

const SDK_DISABLED: &str = "OTEL_SDK_DISABLED";
const EXPORTER: &str = "OTEL_TRACES_EXPORTER";
const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const SAMPLER_ARG: &str = "OTEL_TRACES_SAMPLER_ARG";
const PROPAGATORS: &str = "OTEL_PROPAGATORS";
const RESOURCE_ATTRIBUTES: &str = "OTEL_RESOURCE_ATTRIBUTES";
/// For traces alone, then for all signals: the first that is set counts.
const ENDPOINT: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
];
const PROTOCOL: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
];
const HEADERS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    "OTEL_EXPORTER_OTLP_HEADERS",
];
/// Milliseconds and counts, which the SDK reads by itself.
const NUMBERS: [&str; 8] = [
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
    "OTEL_EXPORTER_OTLP_TIMEOUT",
    "OTEL_BSP_SCHEDULE_DELAY",
    "OTEL_BSP_MAX_QUEUE_SIZE",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_EVENT_COUNT_LIMIT",
    "OTEL_SPAN_LINK_COUNT_LIMIT",
];
/// Standard, and without effect here: whoever sets one must learn that.
const NOT_READ: [(&str, &str); 9] = [
    ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", AUTHORITIES),
    ("OTEL_EXPORTER_OTLP_CERTIFICATE", AUTHORITIES),
    ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", UNSET),
    ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", UNSET),
    ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", UNSET),
    ("OTEL_EXPORTER_OTLP_CLIENT_KEY", UNSET),
    ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", UNSET),
    ("OTEL_EXPORTER_OTLP_COMPRESSION", UNSET),
    ("OTEL_BSP_EXPORT_TIMEOUT", TIMEOUT),
];
const TIMEOUT: &str = "set OTEL_EXPORTER_OTLP_TIMEOUT";
/// What is done in any case: saying so is no error.
const AS_IT_IS: [(&str, &str); 2] = [
    ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "none"),
    ("OTEL_EXPORTER_OTLP_COMPRESSION", "none"),
];
const AUTHORITIES: &str = "name the file of authorities in SSL_CERT_FILE";
const UNSET: &str = "unset it";

/// How OTLP is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Grpc,
    Http,
}

/// Where traces go, and which.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) protocol: Protocol,
    pub(super) tls: bool,
    pub(super) sampler: Sampler,
    /// The variable that named the endpoint.
    pub(super) endpoint_variable: &'static str,
}

impl Settings {
    /// `None` when no traces are wanted. An empty variable is as good as none, as the specification has it.
    ///
    /// # Errors
    /// When a variable is not understood.
    pub(super) fn from_env(read: impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let read = |name: &'static str| {
            let value = read(name)?;
            Some((name, value.trim().to_owned())).filter(|(_, value)| !value.is_empty())
        };
        if disabled(read(SDK_DISABLED))? || exporter_is_none(read(EXPORTER))? {
            return Ok(None);
        }
        let first = |names: [&'static str; 2]| names.into_iter().find_map(&read);
        let Some((endpoint_variable, endpoint)) = first(ENDPOINT) else {
            return Ok(None);
        };
        for (name, remedy) in NOT_READ {
            let value = read(name).map(|(_, value)| value);
            let harmless = |value: &String| AS_IT_IS.contains(&(name, value.as_str()));
            ensure!(
                value.as_ref().is_none_or(harmless),
                "{name} is not supported: {remedy}"
            );
        }
        if let Some((name, value)) = read(PROPAGATORS) {
            ensure!(
                value.split(',').any(|it| it.trim() == "tracecontext"),
                "{name} must name tracecontext, which is what travels with messages; not `{value}`"
            );
        }
        for (name, value) in NUMBERS.into_iter().filter_map(&read) {
            number::<u32>(name, &value)?;
        }
        for (name, value) in HEADERS.into_iter().filter_map(&read) {
            check_pairs(name, &value, |key| HeaderName::from_str(key).is_ok())?;
        }
        if let Some((name, value)) = read(RESOURCE_ATTRIBUTES) {
            check_pairs(name, &value, |key| !key.is_empty())?;
        }
        Ok(Some(Self {
            protocol: protocol(first(PROTOCOL))?,
            tls: uses_tls(endpoint_variable, &endpoint)?,
            sampler: sampler(read(SAMPLER), &read(SAMPLER_ARG))?,
            endpoint_variable,
        }))
    }
}

type Variable = Option<(&'static str, String)>;

fn disabled(variable: Variable) -> Result<bool> {
    match variable {
        None => Ok(false),
        Some((_, value)) if value.eq_ignore_ascii_case("true") => Ok(true),
        Some((_, value)) if value.eq_ignore_ascii_case("false") => Ok(false),
        Some((name, value)) => bail!("{name} must be true or false, not `{value}`"),
    }
}

fn exporter_is_none(variable: Variable) -> Result<bool> {
    match variable {
        None => Ok(false),
        Some((name, value)) => match value.as_str() {
            "otlp" => Ok(false),
            "none" => Ok(true),
            _ => bail!("{name} must be otlp or none, not `{value}`"),
        },
    }
}

fn protocol(variable: Variable) -> Result<Protocol> {
    match variable {
        None => Ok(Protocol::Grpc),
        Some((name, value)) => match value.as_str() {
            "grpc" => Ok(Protocol::Grpc),
            "http/protobuf" => Ok(Protocol::Http),
            _ => bail!("{name} must be grpc or http/protobuf, not `{value}`"),
        },
    }
}

/// The value is not repeated: it may hold a password.
fn uses_tls(name: &str, endpoint: &str) -> Result<bool> {
    let uri: Uri = endpoint
        .parse()
        .ok()
        .with_context(|| format!("{name} is not a URL, such as http://collector:4317"))?;
    ensure!(
        uri.host().is_some_and(|host| !host.is_empty()),
        "{name} names no host; write a URL such as http://collector:4317"
    );
    match uri.scheme_str() {
        Some("http") => Ok(false),
        Some("https") => Ok(true),
        _ => bail!("{name} must begin with http:// or https://"),
    }
}

fn sampler(name: Variable, argument: &Variable) -> Result<Sampler> {
    let ratio = || match argument {
        None => Ok(1.0),
        Some((name, value)) => {
            let ratio: f64 = number(name, value)?;
            ensure!(
                (0.0..=1.0).contains(&ratio),
                "{name} must be from 0 to 1, not `{value}`"
            );
            Ok(ratio)
        }
    };
    let Some((name, value)) = name else {
        return Ok(parent_based(Sampler::AlwaysOn));
    };
    Ok(match value.as_str() {
        "always_on" => Sampler::AlwaysOn,
        "always_off" => Sampler::AlwaysOff,
        "traceidratio" => Sampler::TraceIdRatioBased(ratio()?),
        "parentbased_always_on" => parent_based(Sampler::AlwaysOn),
        "parentbased_always_off" => parent_based(Sampler::AlwaysOff),
        "parentbased_traceidratio" => parent_based(Sampler::TraceIdRatioBased(ratio()?)),
        _ => bail!(
            "{name} must be always_on, always_off, traceidratio or one of these after parentbased_, not `{value}`"
        ),
    })
}

fn parent_based(root: Sampler) -> Sampler {
    Sampler::ParentBased(Box::new(OrLinked(root)))
}

fn number<T: FromStr<Err: Display>>(name: &str, value: &str) -> Result<T> {
    value
        .parse()
        .map_err(|error| anyhow::anyhow!("{name} must be a number, not `{value}`: {error}"))
}

/// `key=value,key=value`; values are not repeated, since headers hold tokens.
fn check_pairs(name: &str, value: &str, is_key: impl Fn(&str) -> bool) -> Result<()> {
    let good = |pair: &str| {
        pair.split_once('=')
            .is_some_and(|(key, _)| is_key(key.trim()))
    };
    let pairs = || value.split_terminator(',');
    match pairs().position(|pair| !good(pair)) {
        None => Ok(()),
        Some(at) => bail!("{name}: entry {} is not of the form key=value", at + 1),
    }
}

#[cfg(test)]
#[path = "otlp_tests.rs"]
mod tests;
