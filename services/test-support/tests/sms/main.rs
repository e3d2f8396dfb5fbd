//! The SMS service, on real servers and with real processes. Run by `cargo xtask test`.

mod a_broker;
mod a_idempotency;
mod a_quota;
mod a_slow_clients;
mod a_status;
mod b_dispatch;
#[path = "../common/gateway.rs"]
mod b_gateway;
mod b_kill;
mod b_receipts;
mod b_records;
mod b_retention;
mod b_storing;
mod b_tls;
mod b_world;
#[path = "../common/mod.rs"]
mod common;
mod end_to_end;
