//! The spine, on real servers and with real processes: a user change reaches an SMS.
//! Run by `cargo xtask test`.

#[path = "../common/mod.rs"]
mod common;

mod administration;
mod cache_sync;
mod canary;
mod dead_letters;
mod lag;
mod malformed;
mod metrics;
mod metrics_page;
mod proof;
mod sends;
mod shutdown;
mod startup;
mod tls;
mod write_paths;
