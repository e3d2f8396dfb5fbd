//! RabbitMQ: connections that are made anew for ever, a confirming publisher, dead letters.
//!
//! lapin's own recovery is left off: a new connection means a new channel, queue, binding and consumer, made
//! by the code that owns them.

mod batch;
mod connector;
mod consume;
mod dead_letter;
mod headers;
mod metrics;
mod publisher;
mod spans;
mod stream;
mod topology;

pub use batch::{ack_settled, close, next_batch};
pub use connector::{ConnectionState, Connector, SessionError, set_up};
pub use consume::{consume, give_back, subscribe};
pub use dead_letter::dead_letter;
pub use headers::{delivery_trace, event_type, header_flag, header_number, header_text};
pub use publisher::{Confirm, Message, PublishError, Publisher, PublisherTask};
pub use spans::{Destination, MessageSpan, receive_span, send_span};
pub use topology::{bind, declare_exchange, declare_queue, waiting};
