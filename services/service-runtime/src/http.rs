//! An HTTP/1.1 and HTTP/2 server with a header timeout, a connection limit and a bounded drain.
//! `axum::serve` has neither of the first two.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// A client that has not sent its headers by then is slow on purpose.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// When a connection whose first bytes may yet be those of HTTP/2 is looked at again: at first, and at most.
const PREFACE_PAUSE: Duration = Duration::from_millis(20);
const PREFACE_PAUSE_MAX: Duration = Duration::from_millis(500);
/// What an HTTP/2 connection begins with (RFC 9113, 3.4).
const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// An HTTP/2 connection that is silent for so long is asked for a sign of life, and has as long to give it.
const HTTP2_PING: Duration = Duration::from_secs(10);
/// Connections served at once; further ones wait in the listener's backlog.
const MAX_CONNECTIONS: usize = 20_000;
/// Requests in hand may take this long after the shutdown began; then their connections are cut.
const DRAIN: Duration = Duration::from_secs(4);
/// Pause after a failed accept (out of descriptors, most likely), so as not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A bound server, not serving yet.
#[derive(Debug)]
pub struct Server {
    name: &'static str,
    listener: TcpListener,
}

impl Server {
    /// Binds, and logs the address (port 0 picks a free one).
    pub async fn bind(name: &'static str, address: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address} ({name} server)"))?;
        let bound = listener.local_addr().context("bound address")?;
        tracing::info!(server = name, address = %bound, "listening");
        Ok(Self { name, listener })
    }

    /// The bound address.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown`, then lets requests in hand finish.
    pub async fn serve(self, router: Router, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(Some(HTTP2_PING))
            .keep_alive_timeout(HTTP2_PING);
        let builder = Arc::new(builder);
        let graceful = GracefulShutdown::new();
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let cut = CancellationToken::new();
        loop {
            let permit = tokio::select! {
                () = shutdown.cancelled() => break,
                permit = permits.clone().acquire_owned() => permit.context("semaphore closed")?,
            };
            let stream = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(server = self.name, %error, "accept failed");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
            };
            prepare(&stream);
            let service = TowerToHyperService::new(router.clone());
            let (builder, watcher) = (Arc::clone(&builder), graceful.watcher());
            let (cut, shutdown) = (cut.clone(), shutdown.clone());
            tokio::spawn(async move {
                tokio::select! {
                    spoke = speaks(&stream) => if !spoke { return },
                    // Nothing was asked yet.
                    () = shutdown.cancelled() => return,
                }
                let connection =
                    builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
                let connection = watcher.watch(connection.into_owned());
                tokio::select! {
                    // A client that goes away in the middle is not an event worth a line.
                    _ = connection => {}
                    () = cut.cancelled() => {}
                }
                drop(permit);
            });
        }
        drop(self.listener);
        if tokio::time::timeout(DRAIN, graceful.shutdown())
            .await
            .is_err()
        {
            tracing::warn!(
                server = self.name,
                connections = MAX_CONNECTIONS - permits.available_permits(),
                "connections cut after the drain deadline"
            );
            cut.cancel();
        }
        Ok(())
    }
}

/// Waits for the bytes by which the version of HTTP is told, and says whether they came in time. hyper's own limit begins
/// with the headers, and these come before: a connection that says nothing, or less than this, would stay for ever.
async fn speaks(stream: &TcpStream) -> bool {
    let mut first = [0; HTTP2_PREFACE.len()];
    let told = async {
        let mut pause = PREFACE_PAUSE;
        loop {
            match stream.peek(&mut first).await {
                Ok(0) | Err(_) => return false,
                Ok(read) if read == first.len() || first[..read] != HTTP2_PREFACE[..read] => {
                    return true;
                }
                Ok(_) => tokio::time::sleep(pause).await,
            }
            pause = (pause * 2).min(PREFACE_PAUSE_MAX);
        }
    };
    tokio::time::timeout(HEADER_TIMEOUT, told)
        .await
        .unwrap_or(false)
}

fn prepare(stream: &TcpStream) {
    // Small answers must not wait for more to send; a socket that refuses still works.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY was refused");
    }
}
