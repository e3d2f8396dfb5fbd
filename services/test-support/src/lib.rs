//! What tests and `cargo xtask up` need around our binaries: private RabbitMQ, PostgreSQL and Prometheus servers, a TCP
//! relay that breaks links, our services as child processes, and waiting for a condition.
//!
//! Everything blocks and uses std only, so that it is light to build; call it from a test directly or through
//! `spawn_blocking`.

pub mod app;
pub mod children;
pub mod error_page;
mod eventually;
mod hold;
mod http;
mod otlp_sink;
mod schemathesis;
pub mod servers;
mod service_process;
mod shared;
mod tcp_relay;
mod writer;

#[cfg(feature = "tokio")]
pub use eventually::eventually_async;
pub use eventually::{Observation, eventually, try_eventually};
pub use hold::Hold;
pub use http::{Answer, Http};
pub use otlp_sink::OtlpSink;
pub use schemathesis::Schemathesis;
pub use service_process::{ServiceCommand, ServiceProcess};
pub use shared::{
    BIN_DIR_VAR, COLLECTOR_VAR, DATABASE_VAR, MANAGEMENT_VAR, RABBITMQ_VAR, SCHEMATHESIS_VAR,
    TestDatabase, TestServers, TestVhost,
};
pub use tcp_relay::{Link, TcpRelay};
pub use writer::Writer;
