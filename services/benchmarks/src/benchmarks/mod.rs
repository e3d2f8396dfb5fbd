//! One file a benchmark.

mod end_to_end;
mod full_sync;
mod growth;
mod lag;
mod lookup;
pub mod memory;
mod process;
mod ready;
mod relay;
mod restart;
mod send;
mod tracing;
mod user_service;
mod write_cost;

use anyhow::{Result, bail};

use crate::bench::Bench;
use crate::report::Report;

/// A benchmark.
pub struct Benchmark {
    /// Its name on the command line, and of its result.
    pub name: &'static str,
    /// What stands side by side.
    pub compares: &'static str,
    /// Runs it.
    pub run: fn(&Bench) -> Result<Report>,
}

/// All of them, in the order in which they run.
pub const ALL: &[Benchmark] = &[
    Benchmark {
        name: "send",
        compares: "POST /api/v1/sms/send | without authentication | a bare publisher",
        run: send::run,
    },
    Benchmark {
        name: "tracing",
        compares: "sends untraced | 10 % traced | 10 % traced, collector dead",
        run: tracing::run,
    },
    Benchmark {
        name: "lag",
        compares: "commit → applied by every replica | a bare commit and publish → consumed",
        run: lag::run,
    },
    Benchmark {
        name: "write-cost",
        compares: "writes to users with trigger and outbox | without trigger",
        run: write_cost::run,
    },
    Benchmark {
        name: "relay",
        compares: "outbox → exchange | a bare publisher to as many queues",
        run: relay::run,
    },
    Benchmark {
        name: "full-sync",
        compares: "every user to every replica | a bare publisher to as many queues",
        run: full_sync::run,
    },
    Benchmark {
        name: "ready",
        compares: "a fresh replica | COPY of the same rows",
        run: ready::run,
    },
    Benchmark {
        name: "memory",
        compares: "the cache's bytes per user | a HashMap<String, User>",
        run: memory::run,
    },
    Benchmark {
        name: "lookup",
        compares: "key → context while changes are applied | without changes",
        run: lookup::run,
    },
    Benchmark {
        name: "restart",
        compares: "ten replicas that reconnect at once | one",
        run: restart::run,
    },
    Benchmark {
        name: "process",
        compares: "queue → row → provider | a bare consumer with the same insert",
        run: process::run,
    },
    Benchmark {
        name: "end-to-end",
        compares: "dispatch while server A is loaded to its limit | server B alone",
        run: end_to_end::run,
    },
    Benchmark {
        name: "user-service",
        compares: "UserCreated → row | a bare consumer with the same insert",
        run: user_service::run,
    },
    Benchmark {
        name: "growth",
        compares: "send, ready and memory at 10,000 | 100,000 | 1,000,000 users",
        run: growth::run,
    },
];

/// Those that are named, in the order of [`ALL`]; all if none is.
pub fn chosen(names: &[String]) -> Result<Vec<&'static Benchmark>> {
    for name in names {
        if !ALL.iter().any(|it| it.name == name) {
            let known: Vec<&str> = ALL.iter().map(|it| it.name).collect();
            bail!(
                "there is no benchmark {name}; there are: {}",
                known.join(", ")
            );
        }
    }
    let wanted = |it: &&Benchmark| names.is_empty() || names.iter().any(|name| name == it.name);
    Ok(ALL.iter().filter(wanted).collect())
}
