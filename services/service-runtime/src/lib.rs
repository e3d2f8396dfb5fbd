//! What every process of identity-sync needs once.
//!
//! - [`config`]: clap groups that read the environment, secrets wrapped
//! - [`telemetry`]: logs and traces, behind a guard that flushes
//! - [`lifecycle`]: tasks that take the process down when they die; drain with a deadline
//! - [`readiness`]: named gates; `/readyz` tells which are closed
//! - [`admin`]: `/livez`, `/readyz`, `/status`, `/metrics`
//! - [`http`]: an HTTP server with limits and graceful shutdown
//! - [`http_client`]: requests to others, in the trace
//! - [`api`]: what is around the routes of every HTTP API
//! - [`problem`]: RFC 9457 errors, and the page that lists them
//! - [`query`]: parameters in the query of a URL
//! - [`database`]: pool, migrations, readiness of PostgreSQL
//! - [`amqp`]: connection, topology, publisher, consumer supervision, dead letters
//! - [`intake`]: a queue whose messages become rows
//! - [`trace`]: W3C trace context to and from text

pub mod admin;
pub mod amqp;
pub mod api;
pub mod config;
pub mod database;
pub mod http;
pub mod http_client;
pub mod intake;
pub mod lifecycle;
mod metrics;
pub mod problem;
pub mod query;
pub mod readiness;
pub mod telemetry;
pub mod trace;

/// Makes aws-lc-rs the TLS provider of the process; the first line of every `main`.
pub fn install_crypto_provider() {
    // Fails only when one is installed already, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
