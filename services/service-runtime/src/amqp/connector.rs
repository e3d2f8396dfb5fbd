//! Connects, and supervises what runs on the connection.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use backon::{BackoffBuilder, ExponentialBuilder};
use lapin::tcp::OwnedTLSConfig;
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties};
use parking_lot::RwLock;
use secrecy::ExposeSecret;
use serde::Serialize;
use time::OffsetDateTime;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::metrics::ConnectionMetrics;
use super::stream::{self, Once};
use crate::config::AmqpArgs;

/// For the stream, and again for the broker's greeting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Seconds. Under 5 gives false alarms; 10 finds a dead peer within 20.
const HEARTBEAT: u16 = 10;
/// Bytes. lapin keeps two rings of 32 frames for each connection: with the broker's 128 KiB they are 8 MiB, and most of
/// the process's memory. Bodies are split into frames; a message's headers are not.
const FRAME_MAX: u32 = 16 * 1024;
/// The longest pause between two tries.
const MAX_BACKOFF: Duration = Duration::from_secs(1);
/// Longest wait for the declarations on a new connection.
const SET_UP_TIMEOUT: Duration = Duration::from_secs(15);
/// A session that lived this long starts the back-off anew.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// Why a session on a connection ended.
pub type SessionError = anyhow::Error;

/// Makes connections to the broker.
#[derive(Clone)]
pub struct Connector {
    uri: AMQPUri,
    ca: Option<String>,
    service: Arc<str>,
    any_message: bool,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector")
            .field("host", &self.uri.authority.host)
            .field("port", &self.uri.authority.port)
            .finish_non_exhaustive()
    }
}

/// Whether a supervised connection is up, for `/status`.
#[derive(Debug, Clone, Serialize)]
pub struct ConnectionState {
    /// Up.
    pub connected: bool,
    /// Since when.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    /// Times that it was made.
    pub connects: u64,
    /// Why the last try or session ended; stays when the connection is up again.
    pub last_error: Option<String>,
    /// When that was.
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_error_at: Option<OffsetDateTime>,
}

impl ConnectionState {
    /// Not connected yet.
    #[must_use]
    pub fn shared() -> Arc<RwLock<Self>> {
        Arc::new(RwLock::new(Self {
            connected: false,
            since: OffsetDateTime::now_utc(),
            connects: 0,
            last_error: None,
            last_error_at: None,
        }))
    }

    fn up(&mut self) {
        self.connected = true;
        self.since = OffsetDateTime::now_utc();
        self.connects += 1;
    }

    fn down(&mut self, error: String) {
        if self.connected {
            self.connected = false;
            self.since = OffsetDateTime::now_utc();
        }
        self.last_error = Some(error);
        self.last_error_at = Some(OffsetDateTime::now_utc());
    }
}

impl Connector {
    /// Checks the configuration: URL, and the CA file where one is named.
    pub fn new(service: &str, args: &AmqpArgs) -> anyhow::Result<Self> {
        let mut uri: AMQPUri = args
            .rabbitmq_url
            .expose_secret()
            .parse()
            // The text of the error may quote the URL, and so the password.
            .map_err(|_| {
                anyhow::anyhow!(
                    "RABBITMQ_URL is not a URL of the form amqp://user:password@host:port/vhost"
                )
            })?;
        // A trailing slash names the default vhost for everyone but the AMQP URI specification.
        if uri.vhost.is_empty() {
            "/".clone_into(&mut uri.vhost);
        }
        uri.query.heartbeat.get_or_insert(HEARTBEAT);
        let ca = args
            .rabbitmq_ca_file
            .as_ref()
            .map(|path| {
                std::fs::read_to_string(path)
                    .with_context(|| format!("RABBITMQ_CA_FILE: cannot read {}", path.display()))
            })
            .transpose()?;
        Ok(Self {
            uri,
            ca,
            service: service.into(),
            any_message: false,
        })
    }

    /// For a connection that takes what others publish: headers of any length, as long as the broker takes them. With
    /// smaller frames a message with longer ones would end the connection, be delivered to the next one, and end that too.
    #[must_use]
    pub fn for_any_message(mut self) -> Self {
        self.any_message = true;
        self
    }

    /// Connects once.
    pub async fn connect(&self, purpose: &str) -> anyhow::Result<Connection> {
        let properties = ConnectionProperties::default()
            .with_connection_name(format!("{} {purpose}", self.service).into());
        let tls = OwnedTLSConfig {
            identity: None,
            cert_chain: self.ca.clone(),
        };
        let mut uri = self.uri.clone();
        if !self.any_message {
            uri.query.frame_max.get_or_insert(FRAME_MAX);
        }
        let address = format!("{}:{}", uri.authority.host, uri.authority.port);
        let opened = tokio::time::timeout(CONNECT_TIMEOUT, stream::open(&uri, &tls)).await;
        let (opened, cutter) = opened
            .with_context(|| format!("{address} does not answer"))?
            .with_context(|| format!("cannot connect to RabbitMQ at {address}"))?;
        let opened = Once::new(opened);
        let runtime = lapin::runtime::default_runtime().context("no tokio runtime")?;
        let greeted =
            Connection::connector(uri, runtime, async move |_, _| opened.take(), properties);
        let Ok(connected) = tokio::time::timeout(CONNECT_TIMEOUT, greeted).await else {
            cutter.cut();
            anyhow::bail!("RabbitMQ at {address} took the connection and does not answer");
        };
        connected.with_context(|| format!("cannot log in to RabbitMQ at {address}"))
    }

    /// Connects, runs `session` until it ends, and does so again with back-off and jitter, for ever;
    /// returns when `shutdown` is cancelled. A session that returns `Ok` had nothing left to do.
    pub async fn supervise<F, Fut>(
        &self,
        purpose: &'static str,
        state: &RwLock<ConnectionState>,
        shutdown: &CancellationToken,
        mut session: F,
    ) where
        F: FnMut(Connection) -> Fut,
        Fut: Future<Output = Result<(), SessionError>>,
    {
        let metrics = ConnectionMetrics::new(purpose);
        let mut backoff = new_backoff();
        while !shutdown.is_cancelled() {
            let connected = tokio::select! {
                () = shutdown.cancelled() => return,
                connected = self.connect(purpose) => connected,
            };
            let error = match connected {
                Ok(connection) => {
                    tracing::info!(purpose, "connected to RabbitMQ");
                    state.write().up();
                    metrics.up();
                    let started = Instant::now();
                    let ended = session(connection).await;
                    if started.elapsed() >= STABLE_AFTER {
                        backoff = new_backoff();
                    }
                    match ended {
                        Ok(()) if shutdown.is_cancelled() => {
                            state.write().down("stopped".to_owned());
                            metrics.down();
                            return;
                        }
                        Ok(()) => anyhow::anyhow!("the session ended"),
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            let text = format!("{error:#}");
            tracing::warn!(purpose, error = text, "RabbitMQ connection down");
            state.write().down(text);
            metrics.down();
            let pause = backoff.next().unwrap_or(MAX_BACKOFF);
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

/// Runs what sets a session up, under a limit: heartbeats keep a connection alive whose declarations never answer (a
/// quorum queue without a majority).
pub async fn set_up<T>(steps: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::time::timeout(SET_UP_TIMEOUT, steps)
        .await
        .context("the broker does not answer the set-up")?
}

fn new_backoff() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(MAX_BACKOFF)
        .without_max_times()
        .with_jitter()
        .build()
}
