//! The SMS path behind the queue.
//!
//! ```text
//! sms_outbound_queue → consumer → sms_messages row → dispatcher → provider
//! ```
//! The row is the hand-over: the consumer acks when it is committed, and dispatchers of any number of
//! server Bs take due rows from the table.

pub mod consumer;
pub mod dispatcher;
pub mod provider;

pub(crate) mod dead_letters;
mod delivery;
pub(crate) mod metrics;
mod store;

pub use store::{SmsStatus, find};
