//! The cache protocol, explored exhaustively within small bounds.
//!
//! ```text
//! database::Database   users, outbox, relay row; numbers by server B's own `relay::numbering::plan`
//!   relay::Leader      number → publish → delete; crashes, zombies, lost confirms
//!   source::Source     snapshots and full syncs: start, read, rows, end
//!     ↓ messages, in every order that channels allow
//! replica::Replica     server A's own `CacheState::apply`
//! ```
//!
//! A message is taken by the replica as it enters the queue: the order in the queue is all that the replica can
//! see. What a queue loses when its connection breaks is what is sent between [`model::Action::Disconnect`] and
//! [`model::Action::Subscribe`]; what an overflow loses is [`model::Fate::Dropped`]. Lag shows only in how late a
//! snapshot is asked for, and that is free. One replica stands for all: they do not act on each other.

pub mod bounds;
pub mod database;
pub mod model;
pub mod relay;
pub mod replica;
pub mod source;

pub use bounds::{Bounds, Rule};
pub use model::System;
