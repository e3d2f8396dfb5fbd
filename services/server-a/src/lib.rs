//! Server A: an SMS gateway that authenticates from memory.
//!
//! ```text
//! own queue → sync → cache::CacheState::apply → cache::UserCache
//!                                                 ↓ look-up by key digest
//! POST /api/v1/sms/send → api::auth → api::sms → publish_sms_message → sms_outbound_queue
//! ```

pub mod api;
pub mod cache;
pub mod metrics;
pub mod serve;
pub mod sync;
