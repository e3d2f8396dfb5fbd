//! Past one machine: what a large installation needs, computed from what one event costs here.
//!
//! The model is linear: a change costs each stage so much CPU time, and the broker so much more for each queue that it is
//! copied to. Both are measured by `relay`, with one queue and with four; what a user of a snapshot costs, by `restart`, whose
//! ten replicas share one read as fifty would. What a network carries follows from the sizes of
//! the wire contract's own messages. It tells where the first wall is, not how steep the way to it: keep half of each
//! stage free.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use comfy_table::{Table, presets};
use serde_json::Value;
use wire_contract::encode_json;

use crate::benchmarks::memory::record;
use crate::stats;

/// On the command line.
pub const NAME: &str = "scaling";
/// What it does.
pub const COMPUTES: &str =
    "what 1,000,000 users, 50 replicas and 10,000 changes/s need, from the last results";

/// Bytes around a body on the wire: frames, properties, headers, and TCP's own.
const AROUND: f64 = 280.0;

/// The installation that is asked for.
#[derive(Debug, Clone, Copy)]
struct Installation {
    users: f64,
    replicas: f64,
    changes: f64,
    /// Cores for the broker (one node: a fanout's copies are made where its queues are), for PostgreSQL, for the leading
    /// server B, for each replica.
    cores: [f64; 4],
    /// Bytes a second that the broker's link carries.
    link: f64,
}

const ASKED: Installation = Installation {
    users: 1e6,
    replicas: 50.0,
    changes: 1e4,
    cores: [16.0, 8.0, 2.0, 2.0],
    link: 10e9 / 8.0,
};

/// What one change, or one user of a snapshot, costs. CPU times in microseconds.
#[derive(Debug, Clone, Copy)]
struct Costs {
    broker_change: f64,
    broker_copy: f64,
    postgres_write: f64,
    postgres_relay: f64,
    b_change: f64,
    a_change: f64,
    b_row: f64,
    broker_row: f64,
    a_row: f64,
    memory_user: f64,
    /// Changes a second that one relay published here.
    relay_rate: f64,
    event_bytes: f64,
    row_bytes: f64,
}

/// A resource, how much of it there is, and what is needed of it.
#[derive(Debug, Clone, PartialEq)]
struct Need {
    stage: &'static str,
    needed: f64,
    available: f64,
    unit: &'static str,
}

impl Need {
    fn share(&self) -> f64 {
        self.needed / self.available
    }
}

/// Prints both tables.
pub fn print(results: &Path) -> Result<()> {
    let costs = Costs::measured(results)?;
    println!(
        "{} users, {} replicas, {} changes/s; from the costs that were measured:\n{costs:#?}\n",
        ASKED.users, ASKED.replicas, ASKED.changes
    );
    let needs = steady(&costs, &ASKED);
    println!("{}\n", table(&needs, &ASKED));
    if let Some(first) = needs.iter().max_by(|a, b| a.share().total_cmp(&b.share())) {
        println!(
            "First wall: {}, at {:.0} changes/s with {} replicas, or {:.0} replicas with {} changes/s.\n",
            first.stage,
            ASKED.changes / first.share(),
            ASKED.replicas,
            (ASKED.replicas / first.share()).floor(),
            ASKED.changes
        );
    }
    println!("All replicas restarting at once, until the last is ready, if nothing else ran:");
    for need in restart(&costs, &ASKED) {
        println!("  {:38} {:8.1} s", need.stage, need.share());
    }
    println!(
        "Memory of a replica's cache: {:.0} MiB.",
        costs.memory_user * ASKED.users / f64::from(1 << 20)
    );
    Ok(())
}

impl Costs {
    fn measured(results: &Path) -> Result<Self> {
        let cpu = |benchmark: &str, variant: &str, program: &str| {
            median(
                results,
                benchmark,
                variant,
                &format!("CPU µs/op, {program}"),
            )
        };
        let (one, four) = ("relay, 1 bound", "relay, 4 bound");
        let broker = cpu("relay", one, "rabbitmq")?;
        let broker_copy = (cpu("relay", four, "rabbitmq")? - broker) / 3.0;
        let row = encode_json(&record(123_456)).len() as u64;
        Ok(Self {
            broker_change: broker - broker_copy,
            broker_copy,
            postgres_write: cpu("write-cost", "trigger and outbox, 8 writers", "postgresql")?,
            postgres_relay: cpu("relay", one, "postgresql")?,
            b_change: cpu("relay", one, "server-b")?,
            a_change: cpu("full-sync", "full sync, 1 bound", "server-a")?,
            b_row: cpu("restart", "10 replicas", "server-b")?,
            broker_row: cpu("restart", "10 replicas", "rabbitmq")?,
            a_row: cpu("restart", "10 replicas", "server-a")?,
            memory_user: median(results, "memory", "cache", "bytes/user")?,
            relay_rate: median(results, "relay", one, "events/s")?,
            event_bytes: median(results, "relay", one, "bytes/event")? + AROUND,
            row_bytes: stats::number(row),
        })
    }
}

/// What changes at a steady rate need.
fn steady(costs: &Costs, asked: &Installation) -> Vec<Need> {
    let cores = |stage, micros: f64, available| Need {
        stage,
        needed: asked.changes * micros / 1e6,
        available,
        unit: "cores",
    };
    let [broker, postgres, b, a] = asked.cores;
    vec![
        cores(
            "broker, CPU",
            costs.broker_change + costs.broker_copy * asked.replicas,
            broker,
        ),
        Need {
            stage: "broker, network out",
            needed: asked.changes * asked.replicas * costs.event_bytes,
            available: asked.link,
            unit: "bytes/s",
        },
        cores(
            "PostgreSQL, CPU",
            costs.postgres_write + costs.postgres_relay,
            postgres,
        ),
        cores("leading server B, CPU", costs.b_change, b),
        Need {
            stage: "relay, one after the other",
            needed: asked.changes,
            available: costs.relay_rate,
            unit: "changes/s",
        },
        cores("each replica, CPU", costs.a_change, a),
    ]
}

/// Seconds that each resource is busy with snapshots when every replica restarts. `needed` of `available` a second.
fn restart(costs: &Costs, asked: &Installation) -> Vec<Need> {
    let rows = asked.users * asked.replicas;
    let cores = |stage, rows: f64, micros: f64, available| Need {
        stage,
        needed: rows * micros / 1e6,
        available,
        unit: "core seconds",
    };
    let [broker, _, b, a] = asked.cores;
    vec![
        cores("server B, CPU", rows, costs.b_row, b),
        cores("broker, CPU", rows, costs.broker_row, broker),
        cores(
            "each replica, one core",
            asked.users,
            costs.a_row,
            a.min(1.0),
        ),
        Need {
            stage: "broker, network out",
            needed: rows * costs.row_bytes,
            available: asked.link,
            unit: "bytes",
        },
    ]
}

fn table(needs: &[Need], asked: &Installation) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN).set_header([
        "stage",
        "needed",
        "of",
        "unit",
        "used",
        "wall at changes/s",
    ]);
    for need in needs {
        table.add_row([
            need.stage.to_owned(),
            format!("{:.2}", need.needed),
            format!("{:.0}", need.available),
            need.unit.to_owned(),
            format!("{:.0} %", need.share() * 100.0),
            format!("{:.0}", asked.changes / need.share()),
        ]);
    }
    table
}

fn median(results: &Path, benchmark: &str, variant: &str, measure: &str) -> Result<f64> {
    let file = results.join(format!("{benchmark}.json"));
    let missing = || format!("run `cargo xtask bench {benchmark}` first: no {variant}, {measure}");
    let report: Value = serde_json::from_slice(&fs::read(file).with_context(missing)?)?;
    let series = report["series"].as_array().with_context(missing)?;
    let found = series
        .iter()
        .find(|it| it["variant"] == variant && it["measure"] == measure);
    found
        .and_then(|it| it["median"].as_f64())
        .with_context(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COSTS: Costs = Costs {
        broker_change: 20.0,
        broker_copy: 10.0,
        postgres_write: 50.0,
        postgres_relay: 30.0,
        b_change: 40.0,
        a_change: 10.0,
        b_row: 1.0,
        broker_row: 0.5,
        a_row: 2.0,
        memory_user: 100.0,
        relay_rate: 20_000.0,
        event_bytes: 500.0,
        row_bytes: 200.0,
    };

    fn share(needs: &[Need], stage: &str) -> f64 {
        let need = needs.iter().find(|it| it.stage == stage);
        need.expect("such a stage").share()
    }

    #[test]
    fn the_broker_pays_for_every_copy_and_the_relay_for_every_change() {
        let needs = steady(&COSTS, &ASKED);
        // 10,000 × (20 + 50 × 10) µs of 16 cores.
        assert!((share(&needs, "broker, CPU") - 5.2 / 16.0).abs() < 1e-9);
        assert!((share(&needs, "relay, one after the other") - 0.5).abs() < 1e-9);
        let twice = Installation {
            replicas: 100.0,
            ..ASKED
        };
        let twice = steady(&COSTS, &twice);
        let network = share(&twice, "broker, network out") / share(&needs, "broker, network out");
        assert!((network - 2.0).abs() < 1e-9);
        let of_b = share(&twice, "leading server B, CPU") / share(&needs, "leading server B, CPU");
        assert!((of_b - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_restart_of_all_replicas_takes_as_long_as_its_slowest_part() {
        let needs = restart(&COSTS, &ASKED);
        assert!((share(&needs, "server B, CPU") - 25.0).abs() < 1e-9);
        assert!((share(&needs, "broker, network out") - 8.0).abs() < 1e-9);
    }
}
