//! `cargo xtask up`.

use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use test_support::Http;
use test_support::servers::write_private;

use crate::interrupt::Interrupt;
use crate::observe::Observers;
use crate::servers::Servers;
use crate::services::Services;
use crate::workspace::State;
use crate::{cargo, check};

const SAMPLE_USER: &str = "sample";
const SAMPLE_SMS: &str = r#"{"to": "+14155550123", "from": "ACME", "body": "Hello"}"#;

/// Options of `cargo xtask up`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Then run the main job on real input, print what was seen and end: exit 0 if all was right
    #[arg(long)]
    check: bool,

    /// Replicas of server A
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=50))]
    replicas: u16,

    /// Start a Prometheus with the rules of `observability/` beside the stack, and an OpenTelemetry Collector
    #[arg(long)]
    observe: bool,
}

/// Runs until a signal, the end of the check, or the death of something that was started.
pub fn run(args: &Args) -> Result<ExitCode> {
    let began = Instant::now();
    let interrupt = Interrupt::install()?;
    let state = State::take("up")?;
    let env_file = state.join("env");
    // Addresses of an earlier run mislead until the new ones are known.
    let _ = std::fs::remove_file(&env_file);
    let mut servers = thread::scope(|scope| {
        let servers = scope.spawn(|| Servers::start(&state));
        let built = cargo::build(state.dir(), "fast", &interrupt);
        let servers = servers
            .join()
            .ok()
            .context("starting the servers panicked")?;
        built.and(servers)
    })?;
    let mut observers = args
        .observe
        .then(|| Observers::start(&state, &interrupt))
        .transpose()?;
    let otlp_endpoint = observers.as_ref().and_then(Observers::otlp_endpoint);
    let services = Services::start(&state, &servers, args.replicas, otlp_endpoint, &interrupt)?;
    if let Some(observers) = &mut observers {
        observers.watch(&state, &services)?;
    }
    let sample_key = sample_user(&services)?;
    write_private(&env_file, &env_lines(&services, &sample_key))?;
    print_addresses(&services, &servers, &sample_key, &env_file);
    if let Some(observers) = &observers {
        observers.print_addresses();
    }
    println!("Up after {:.1} s.", began.elapsed().as_secs_f64());

    let outcome = if args.check {
        check::run(&state, &services, observers.as_ref(), &interrupt)
    } else {
        println!("Ctrl-C stops it.");
        watch(&services, &servers, observers.as_ref(), &interrupt).map(|()| true)
    };
    println!("Stopping …");
    let watched = observers.as_mut().map_or(Ok(()), Observers::stop);
    let stopped = services.stop().and(servers.stop()).and(watched);
    let good = outcome?;
    stopped?;
    println!("Everything has stopped.");
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Waits for a signal; an error tells what died before it.
fn watch(
    services: &Services,
    servers: &Servers,
    observers: Option<&Observers>,
    interrupt: &Interrupt,
) -> Result<()> {
    while !interrupt.is_set() {
        services.check()?;
        servers.check()?;
        observers.map_or(Ok(()), Observers::check)?;
        thread::sleep(Duration::from_millis(200));
    }
    println!();
    Ok(())
}

/// Creates the sample user, or gives the one of an earlier run a new key; gives the key.
fn sample_user(services: &Services) -> Result<String> {
    let http = Http::new();
    let bearer = format!("Bearer {}", services.admin_token);
    let users = format!("{}/admin/v1/users", services.server_b.url);
    let call = |method: &str, url: &str, body: Option<_>| {
        http.call(method, url, Some(("authorization", &bearer)), body.as_ref())
    };
    let wish = json!({"username": SAMPLE_USER, "daily_quota": 1000, "is_active": true});
    let mut answer = call("POST", &users, Some(wish))?;
    if answer.status == 409 {
        let found = call("GET", &format!("{users}?username={SAMPLE_USER}"), None)?.body;
        let id = found["users"][0]["user_id"]
            .as_i64()
            .context("no sample user listed")?;
        let wish = json!({"daily_quota": 1000, "is_active": true});
        call("PATCH", &format!("{users}/{id}"), Some(wish))?;
        answer = call("POST", &format!("{users}/{id}/rotate-key"), Some(json!({})))?;
    }
    ensure!(
        matches!(answer.status, 200 | 201),
        "sample user: {} {}",
        answer.status,
        answer.body
    );
    Ok(answer.body["api_key"]
        .as_str()
        .context("the answer has no api_key")?
        .to_owned())
}

fn env_lines(services: &Services, sample_key: &str) -> String {
    let replicas = |url: fn(&crate::services::Service) -> &str| {
        services
            .replicas
            .iter()
            .map(url)
            .collect::<Vec<_>>()
            .join(",")
    };
    let variables = [
        ("SERVER_A_URLS", replicas(|service| &service.url)),
        (
            "SERVER_A_ADMIN_URLS",
            replicas(|service| &service.admin_url),
        ),
        ("SERVER_B_URL", services.server_b.url.clone()),
        ("SERVER_B_ADMIN_URL", services.server_b.admin_url.clone()),
        ("USER_SERVICE_URL", services.user_service.url.clone()),
        (
            "USER_SERVICE_ADMIN_URL",
            services.user_service.admin_url.clone(),
        ),
        ("RABBITMQ_URL", services.rabbitmq_url.clone()),
        ("DATABASE_URL", services.database_url.clone()),
        (
            "USER_SERVICE_DATABASE_URL",
            services.user_service_database_url.clone(),
        ),
        ("ADMIN_TOKEN", services.admin_token.clone()),
        ("SAMPLE_API_KEY", sample_key.to_owned()),
    ];
    let lines = variables.map(|(name, value)| format!("{name}={}\n", quoted(&value)));
    lines.concat()
}

/// A value as the shell reads it back.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

fn print_addresses(services: &Services, servers: &Servers, sample_key: &str, env_file: &Path) {
    let b = &services.server_b;
    println!(
        "\nServer B    {}  (probes and metrics: {})",
        b.url, b.admin_url
    );
    for a in &services.replicas {
        println!(
            "Server {}  {}  (probes, status and metrics: {})",
            a.name, a.url, a.admin_url
        );
    }
    let users = &services.user_service;
    println!(
        "user-service {}  (probes, status and metrics: {})",
        users.url, users.admin_url
    );
    println!("RabbitMQ    {}", services.rabbitmq_url);
    if let Some(management) = servers.management() {
        println!("            {}", management.url());
    }
    println!("PostgreSQL  {}", services.database_url);
    println!(
        "All of these for a shell: . {}",
        quoted(&env_file.display().to_string())
    );
    println!("\nSend an SMS:\n");
    println!("  curl -i {}/api/v1/sms/send \\", services.replicas[0].url);
    println!("    -H 'API-Key: {sample_key}' -H 'Content-Type: application/json' \\");
    println!("    -d {}\n", quoted(SAMPLE_SMS));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_values_survive_the_shell() {
        for value in ["plain", "it's $HOME `x` \"y\" \\", ""] {
            let script = format!("VALUE={}; printf %s \"$VALUE\"", quoted(value));
            let output = std::process::Command::new("sh")
                .args(["-c", &script])
                .output();
            assert_eq!(output.expect("sh runs").stdout, value.as_bytes());
        }
    }
}
