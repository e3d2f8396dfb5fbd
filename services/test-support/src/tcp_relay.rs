//! A TCP proxy on the loopback whose link can be broken.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use socket2::SockRef;

/// Bytes of what a client says first that are kept: an AMQP client names its connection in them.
const OPENING: usize = 4096;

/// What the relay does with its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Forwards.
    Up,
    /// Keeps and accepts connections and forwards nothing either way, as a network that loses every packet.
    Silent,
    /// Connections are closed, new ones too.
    Down,
}

/// Forwards connections to one address until it is dropped. Clients connect to [`Self::address`].
#[derive(Debug)]
pub struct TcpRelay {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
    to_server: AtomicU64,
    to_client: AtomicU64,
}

#[derive(Debug)]
struct State {
    link: Link,
    /// Connections in whose opening this stands are silent, whatever the link.
    silenced: Option<String>,
    /// What the client of each connection said first.
    openings: HashMap<u64, Vec<u8>>,
    closed: bool,
    next_id: u64,
    /// Both ends of every connection, by which they can be closed from outside their threads.
    streams: Vec<(u64, TcpStream)>,
}

impl TcpRelay {
    /// Listens on a free port and forwards to `target`.
    pub fn start(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("binding the relay")?;
        let address = listener.local_addr()?;
        let state = State {
            link: Link::Up,
            silenced: None,
            openings: HashMap::new(),
            closed: false,
            next_id: 0,
            streams: Vec::new(),
        };
        let shared = Arc::new(Shared {
            target,
            state: Mutex::new(state),
            changed: Condvar::new(),
            to_server: AtomicU64::new(0),
            to_client: AtomicU64::new(0),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accepting.accept(&listener));
        Ok(Self { address, shared })
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what happens to the connections there are and those to come. What a silent link held back is forwarded
    /// when it comes up again.
    pub fn set_link(&self, link: Link) {
        let mut state = self.shared.lock();
        state.link = link;
        if link == Link::Down {
            for (_, stream) in state.streams.drain(..) {
                reset(&stream);
            }
        }
        self.shared.changed.notify_all();
    }

    /// Makes those connections silent, open ones and those to come, in whose first bytes the client says `text`; the
    /// others go on. `None` ends it.
    pub fn silence_naming(&self, text: Option<&str>) {
        self.shared.lock().silenced = text.map(str::to_owned);
        self.shared.changed.notify_all();
    }

    /// Closes every connection once; clients may connect anew at once.
    pub fn cut_once(&self) {
        self.set_link(Link::Down);
        self.set_link(Link::Up);
    }

    /// Bytes forwarded so far to the server.
    #[must_use]
    pub fn bytes_to_server(&self) -> u64 {
        self.shared.to_server.load(Ordering::Relaxed)
    }

    /// Bytes forwarded so far to the clients.
    #[must_use]
    pub fn bytes_to_client(&self) -> u64 {
        self.shared.to_client.load(Ordering::Relaxed)
    }

    /// Client connections that are open now.
    #[must_use]
    pub fn connections(&self) -> usize {
        let mut ids: Vec<u64> = self
            .shared
            .lock()
            .streams
            .iter()
            .map(|(id, _)| *id)
            .collect();
        ids.dedup();
        ids.len()
    }
}

impl Drop for TcpRelay {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.set_link(Link::Down);
        // Wakes the accepting thread, which then ends and frees the port.
        let _ = TcpStream::connect(self.address);
    }
}

impl State {
    fn is_silent(&self, id: u64) -> bool {
        match self.link {
            Link::Silent => true,
            Link::Down => false,
            Link::Up => self.is_silenced(id).unwrap_or(false),
        }
    }

    fn is_silenced(&self, id: u64) -> Option<bool> {
        let text = self.silenced.as_ref()?.as_bytes();
        let mut parts = self.openings.get(&id)?.windows(text.len());
        Some(parts.any(|part| part == text))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming().filter_map(Result::ok) {
            let id = {
                let mut state = self.lock();
                if state.closed {
                    return;
                }
                if state.link == Link::Down {
                    reset(&client);
                    continue;
                }
                state.next_id += 1;
                state.next_id
            };
            let shared = Arc::clone(self);
            thread::spawn(move || {
                // An error is a connection that ended: both sides see that, nobody else need.
                let _ = shared.forward(id, client);
                let mut state = shared.lock();
                state.streams.retain(|(other, _)| *other != id);
                state.openings.remove(&id);
            });
        }
    }

    fn forward(self: &Arc<Self>, id: u64, client: TcpStream) -> io::Result<()> {
        self.register(id, &client)?;
        // Through a silent link nobody learns that the server is there.
        drop(self.wait_until_up(id)?);
        let server = TcpStream::connect_timeout(&self.target, Duration::from_secs(5))
            .inspect_err(|_| reset(&client))?;
        self.register(id, &server)?;
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
        }
        let upwards = Arc::clone(self);
        let (from, to) = (client.try_clone()?, server.try_clone()?);
        let up = thread::spawn(move || {
            let note = |bytes: &[u8]| upwards.note_opening(id, bytes);
            upwards.pump(id, from, to, &upwards.to_server, note);
        });
        self.pump(id, server, client, &self.to_client, |_| ());
        // A panic there has ended that direction as an error would.
        let _ = up.join();
        Ok(())
    }

    fn register(&self, id: u64, stream: &TcpStream) -> io::Result<()> {
        let stream = stream.try_clone()?;
        let mut state = self.lock();
        if state.link == Link::Down {
            reset(&stream);
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        state.streams.push((id, stream));
        Ok(())
    }

    fn note_opening(&self, id: u64, bytes: &[u8]) {
        let mut state = self.lock();
        let opening = state.openings.entry(id).or_default();
        let missing = OPENING.saturating_sub(opening.len());
        opening.extend(bytes.iter().take(missing));
    }

    /// Copies one direction until its end; `note` sees what is read before it is forwarded.
    fn pump(
        &self,
        id: u64,
        mut from: TcpStream,
        mut to: TcpStream,
        count: &AtomicU64,
        note: impl Fn(&[u8]),
    ) {
        let mut buffer = [0; 16 * 1024];
        loop {
            let read = from.read(&mut buffer);
            if let Ok(length) = read {
                note(&buffer[..length]);
            }
            // What was read, an end included, is held back while the link is silent.
            let Ok(up) = self.wait_until_up(id) else {
                return;
            };
            // Before the peer has them: who has received something may look at once. And before the link can change: who
            // has made it silent reads a count that stands.
            count.fetch_add(
                read.as_ref().map_or(0, |length| *length as u64),
                Ordering::Relaxed,
            );
            drop(up);
            match read {
                Ok(length) if length > 0 => {
                    if to.write_all(&buffer[..length]).is_err() {
                        let _ = from.shutdown(Shutdown::Read);
                        return;
                    }
                }
                Ok(_) => {
                    let _ = to.shutdown(Shutdown::Write);
                    return;
                }
                Err(_) => return reset(&to),
            }
        }
    }

    /// The link does not change while the guard is held.
    fn wait_until_up(&self, id: u64) -> io::Result<MutexGuard<'_, State>> {
        let state = self.lock();
        let state = self
            .changed
            .wait_while(state, |state| state.is_silent(id))
            .unwrap_or_else(PoisonError::into_inner);
        match state.link {
            Link::Down => Err(io::ErrorKind::ConnectionReset.into()),
            Link::Up | Link::Silent => Ok(state),
        }
    }
}

/// Ends a connection with a reset rather than in order.
fn reset(stream: &TcpStream) {
    // Errors mean that the connection has ended already.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
    let _ = stream.shutdown(Shutdown::Both);
}
