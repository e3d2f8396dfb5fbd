//! The SMS service, on real servers and with real processes. Run by `cargo xtask test`.

mod a_broker;
mod a_idempotency;
mod a_quota;
mod a_slow_clients;
mod a_status;
mod b_dispatch;
mod b_gateway;
mod b_kill;
mod b_receipts;
mod b_records;
mod b_retention;
mod b_storing;
mod b_world;
mod end_to_end;
