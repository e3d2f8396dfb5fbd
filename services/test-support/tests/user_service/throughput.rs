//! user-service beside a bare consumer with the same insert: ratios, on any machine.

use std::env;
use std::path::Path;

use test_support::{BIN_DIR_VAR, ServiceCommand};

use crate::harness::{LONG, UserService};

const EVENTS: u64 = 60_000;
const ROUNDS: usize = 7;
/// "At least 60 % of the throughput of a bare consumer with the same insert."
const LEAST: f64 = 0.6;

#[test]
#[ignore = "a benchmark; first: cargo build --profile fast -p user-service --example bare_consumer"]
fn batch_inserts_have_at_least_60_percent_of_a_bare_consumers_throughput() {
    let (mut bare, mut service) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        // In turn, so that what else the machine does hits both.
        bare.push(events_per_second(|users| {
            let dir = env::var(BIN_DIR_VAR).expect("cargo xtask test sets it");
            ServiceCommand::new("bare_consumer")
                .bin_dir(Path::new(&dir).join("examples"))
                .env("RABBITMQ_URL", &users.rabbitmq_url)
                .env("DATABASE_URL", &users.database_url)
        }));
        service.push(events_per_second(|users| {
            users
                .command("serve")
                .env("LISTEN", "127.0.0.1:0")
                .env("ADMIN_LISTEN", "127.0.0.1:0")
        }));
        println!(
            "round {round}: bare {:.0}/s, user-service {:.0}/s",
            bare[round], service[round]
        );
    }
    let (bare, service) = (median(bare), median(service));
    let ratio = service / bare;
    println!("medians: bare {bare:.0}/s, user-service {service:.0}/s, ratio {ratio:.2}");
    assert!(ratio >= LEAST, "{ratio}");
}

/// From the commit of the first batch to that of the last, so without the start of the process.
fn events_per_second(command: impl FnOnce(&UserService) -> ServiceCommand) -> f64 {
    let (users, _database, _vhost) = UserService::shared();
    let (good, output) = users.cli("migrate", &[]);
    assert!(good, "{output}");
    let count = EVENTS.to_string();
    users.auth_events(&["--count", &count, "--first-id", "1"]);
    let process = command(&users).start().expect("the consumer starts");
    users.wait_stored(LONG, EVENTS);
    process.kill9().expect("it can be killed");
    let rate = users.sql(
        "SELECT count(*) / extract(epoch FROM max(created_at) - min(created_at))
         FROM auth_user_references",
    );
    let rate = rate.expect("the database answers");
    rate.parse().expect("a number")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
