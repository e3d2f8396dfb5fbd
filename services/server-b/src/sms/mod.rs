//! The SMS path behind the queue.
//!
//! ```text
//! sms_outbound_queue → consumer → sms_messages row → dispatcher → provider
//!                          |                ^                        |
//!                          v                +------- receipts -------+
//!                   sms_usage_exchange
//! ```
//! The row is the hand-over: the consumer acks when it is committed, and dispatchers of any number of
//! server Bs take due rows from the table.

pub mod codes;
pub mod config;
pub mod consumer;
pub mod dispatcher;
pub mod http;
pub mod provider;
pub mod providers;
pub mod records;
pub mod routing;
pub mod usage;

mod claims;
pub(crate) mod dead_letters;
mod delivery;
pub(crate) mod metrics;
mod quota;
pub mod receipts;
mod retry;
mod store;

pub use records::{SmsStatus, find};
