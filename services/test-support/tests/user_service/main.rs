//! user-service on real servers and with real processes: every `UserCreated` becomes one `AuthUserReference`.
//! Run by `cargo xtask test`.

mod api;
mod consuming;
mod dead_letters;
mod harness;
mod outages;
