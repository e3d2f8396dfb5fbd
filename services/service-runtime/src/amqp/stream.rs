//! The byte stream to the broker, opened here and not by lapin.
//!
//! lapin 4.12.3 keeps a task for ever for each try that does not reach the broker, some 10 KiB: in hours without a broker
//! that fills a process. And a broker that takes the connection but never answers keeps lapin's thread for as long as the
//! stream stands, so the stream must be ours to end.

use std::io;
use std::net::Shutdown;

use async_compat::{Compat, CompatExt};
use lapin::tcp::{AsyncTcpStream, OwnedTLSConfig};
use lapin::uri::{AMQPScheme, AMQPUri};
use parking_lot::Mutex;
use socket2::{SockRef, Socket};
use tokio::net::TcpStream;

/// A stream to the broker, TLS included where the URL asks for it.
pub(super) type BrokerStream = AsyncTcpStream<Compat<TcpStream>>;

/// Ends the stream, whoever owns it.
pub(super) struct Cutter(Socket);

impl Cutter {
    /// Both ways, at once.
    pub(super) fn cut(&self) {
        if let Err(error) = self.0.shutdown(Shutdown::Both) {
            tracing::debug!(%error, "the stream had ended already");
        }
    }
}

/// Connects to the host and port of `uri`.
pub(super) async fn open(
    uri: &AMQPUri,
    tls: &OwnedTLSConfig,
) -> io::Result<(BrokerStream, Cutter)> {
    let host = uri.authority.host.as_str();
    let stream = TcpStream::connect((host, uri.authority.port)).await?;
    // Small frames must not wait for more to send.
    stream.set_nodelay(true)?;
    let cutter = Cutter(SockRef::from(&stream).try_clone()?);
    let stream = BrokerStream::Plain(stream.compat());
    let stream = match uri.scheme {
        AMQPScheme::AMQP => stream,
        AMQPScheme::AMQPS => stream.into_tls(host, tls.as_ref()).await?,
    };
    Ok((stream, cutter))
}

/// Gives a stream away once: lapin asks again only to try again, which is the supervisor's business.
pub(super) struct Once(Mutex<Option<BrokerStream>>);

impl Once {
    pub(super) fn new(stream: BrokerStream) -> Self {
        Self(Mutex::new(Some(stream)))
    }

    pub(super) fn take(&self) -> lapin::Result<BrokerStream> {
        let gone = || io::Error::from(io::ErrorKind::NotConnected).into();
        self.0.lock().take().ok_or_else(gone)
    }
}
