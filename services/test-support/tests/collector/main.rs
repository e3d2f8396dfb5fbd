//! Traces, as a real collector gets them. `cargo xtask test` builds it where Go is, and runs what is ignored without it; alone:
//! `cargo xtask test --test collector -- --ignored`.

#[path = "../common/mod.rs"]
mod common;
mod configuration;
#[path = "../common/gateway.rs"]
#[expect(dead_code, reason = "the tests of the SMS path tell it how to fail")]
mod gateway;
mod http;
mod traces;
mod tree;

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use test_support::COLLECTOR_VAR;
use test_support::servers::Collector;

/// Where the configurations are.
fn observability() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../observability")
}

fn program() -> PathBuf {
    let path = std::env::var_os(COLLECTOR_VAR);
    path.expect("`cargo xtask test` sets OTELCOL").into()
}

/// A collector whose files go with it.
fn collector() -> (Collector, TempDir) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let collector = Collector::start(&program(), &observability(), dir.path());
    (collector.expect("the collector starts"), dir)
}
