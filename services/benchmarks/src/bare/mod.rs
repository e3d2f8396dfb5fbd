//! Bare variants: what RabbitMQ and PostgreSQL give without the product, on the product's own queues and tables.

pub mod consumer;
pub mod listener;
pub mod publisher;

use anyhow::{Context as _, Result};
use lapin::{Connection, ConnectionProperties};

/// A connection to the broker.
pub async fn connect(url: &str) -> Result<Connection> {
    Connection::connect(url, ConnectionProperties::default())
        .await
        .context("connecting to RabbitMQ")
}
