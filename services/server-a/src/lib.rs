//! Server A: an SMS gateway that authenticates from memory.
//!
//! ```text
//! own queue → sync → cache::CacheState::apply → cache::UserCache
//!                                                 ↓ look-up by key digest
//! POST /api/v1/sms/send → api::auth → api::send → publish_sms_message → sms_outbound_queue
//!                                       ↑ what is left of the quota
//! sms_usage_exchange → own queue → usage::Usage
//!
//! GET /api/v1/sms → api::auth → api::status → server_b::ServerB → server B's API
//! ```

pub mod api;
pub mod cache;
pub mod metrics;
pub mod rates;
pub mod serve;
pub mod server_b;
pub mod sync;
pub mod usage;
