//! user-service: an `AuthUserReference` for every `UserCreated` of the auth-service.
//!
//! ```text
//! auth_events_exchange → user_service.user_created → consumer → auth_user_references row → api
//!                                                      └ poison → user_service.user_created.dead → dead_letters
//! ```

pub mod api;
pub mod cli;
pub mod consumer;
pub mod dead_letters;
pub mod references;
pub mod serve;
pub mod topology;

/// Embedded migrations. They expand first and contract a release later.
pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");
