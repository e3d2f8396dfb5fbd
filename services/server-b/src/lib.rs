//! Server B: the one source of truth for users.
//!
//! ```text
//! REST, CLI, psql → users row → trigger → outbox row → relay → config_events_exchange
//! config_snapshot_requests → snapshot → a replica's own queue
//! sms_outbound_queue → sms::consumer → sms_messages row → sms::dispatcher → provider
//! ```

pub mod actor;
pub mod api;
pub mod audit;
pub mod audit_log;
pub mod cli;
pub mod full_sync;
pub mod keys;
mod lock;
mod metrics;
pub mod relay;
pub mod replicas;
pub mod reseal;
pub mod retention;
pub mod serve;
pub mod sms;
pub mod snapshot;
pub mod token;
pub mod tokens;
pub mod users;
pub mod wire_image;

/// Embedded migrations. They expand first and contract a release later.
pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");
