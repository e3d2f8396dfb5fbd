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
            .keep_alive_interval(Some(Duration::from_secs(20)));
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
            let connection = builder
                .serve_connection_with_upgrades(TokioIo::new(stream), service)
                .into_owned();
            let connection = graceful.watch(connection);
            let cut = cut.clone();
            tokio::spawn(async move {
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

fn prepare(stream: &TcpStream) {
    // Small answers must not wait for more to send; a socket that refuses still works.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY was refused");
    }
}
