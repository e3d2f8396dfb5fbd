//! What takes traces by OTLP over HTTP and keeps them as they came, where no collector is needed.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context as _, Result};

/// A listener on the loopback; its thread ends with the process.
#[derive(Debug, Clone)]
pub struct OtlpSink {
    port: u16,
    taken: Arc<Mutex<Vec<u8>>>,
}

impl OtlpSink {
    /// Listens on a port; 0 for any.
    pub fn start(port: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).context("binding")?;
        let sink = Self {
            port: listener.local_addr()?.port(),
            taken: Arc::default(),
        };
        let of_thread = sink.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let sink = of_thread.clone();
                // Ends when the client closes.
                thread::spawn(move || sink.serve(stream));
            }
        });
        Ok(sink)
    }

    /// For `OTEL_EXPORTER_OTLP_ENDPOINT`, with the protocol `http/protobuf`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// All bodies. Protobuf has texts as they are.
    #[must_use]
    pub fn taken(&self) -> Vec<u8> {
        self.lock().clone()
    }

    /// Whether a text is in any of them.
    #[must_use]
    pub fn has(&self, text: &str) -> bool {
        let taken = self.lock();
        taken
            .windows(text.len())
            .any(|window| window == text.as_bytes())
    }

    fn serve(&self, stream: TcpStream) -> Result<()> {
        let mut answers = stream.try_clone()?;
        let mut requests = BufReader::new(stream);
        loop {
            let mut length = 0;
            loop {
                let mut line = String::new();
                if requests.read_line(&mut line)? == 0 {
                    return Ok(());
                }
                let line = line.trim().to_ascii_lowercase();
                if let Some(value) = line.strip_prefix("content-length:") {
                    length = value.trim().parse()?;
                }
                if line.is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            requests.read_exact(&mut body)?;
            self.lock().extend(body);
            answers.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
