//! An SMS gateway that speaks HTTP, fails as it is told, and remembers what it was asked for.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// Longer than any provider's timeout.
const FOR_EVER: Duration = Duration::from_mins(1);

/// What the gateway does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Sends the SMS and says so.
    Accept,
    /// Sends the SMS, and says so only when it behaves otherwise.
    HoldAnswer,
    /// Sends the SMS, and begins an answer that says so.
    HangInAnswer,
    /// Reads the request and does no more.
    Hang,
    /// Answers with a status, and perhaps `Retry-After`.
    Refuse(u16, Option<&'static str>),
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Asked {
    /// By lower-case names.
    pub headers: HashMap<String, String>,
    /// The JSON of the body.
    pub body: Value,
    /// The gateway's id, if it sent the SMS.
    pub id: Option<String>,
}

#[derive(Debug)]
struct State {
    name: &'static str,
    honours_tokens: bool,
    behaviour: Mutex<Behaviour>,
    changed: Condvar,
    asked: Mutex<Vec<Asked>>,
    /// Ids by token: each is an SMS on the air.
    sent: Mutex<Vec<(String, String)>>,
}

/// A listener on the loopback; its threads end with the process.
#[derive(Debug, Clone)]
pub struct Gateway {
    address: SocketAddr,
    state: Arc<State>,
}

impl Gateway {
    /// One that sends an SMS once for each idempotency token.
    pub fn start(name: &'static str) -> Self {
        Self::listen(name, true)
    }

    /// One that does not look at tokens.
    pub fn without_tokens(name: &'static str) -> Self {
        Self::listen(name, false)
    }

    fn listen(name: &'static str, honours_tokens: bool) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let gateway = Self {
            address: listener.local_addr().expect("an address"),
            state: Arc::new(State {
                name,
                honours_tokens,
                behaviour: Mutex::new(Behaviour::Accept),
                changed: Condvar::new(),
                asked: Mutex::default(),
                sent: Mutex::default(),
            }),
        };
        let state = Arc::clone(&gateway.state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&state);
                // Ends when the client closes.
                thread::spawn(move || state.serve(stream));
            }
        });
        gateway
    }

    pub fn url(&self) -> String {
        format!("http://{}/v1/messages", self.address)
    }

    /// From now on; also for requests whose answer is held.
    pub fn behave(&self, behaviour: Behaviour) {
        *lock(&self.state.behaviour) = behaviour;
        self.state.changed.notify_all();
    }

    /// All requests.
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.state.asked).clone()
    }

    /// The tokens of all SMS that went on the air, one for each time.
    pub fn tokens_sent(&self) -> Vec<String> {
        let sent = lock(&self.state.sent);
        sent.iter().map(|(token, _)| token.clone()).collect()
    }
}

impl State {
    fn serve(&self, stream: TcpStream) -> Result<()> {
        let mut answers = stream.try_clone()?;
        let mut requests = BufReader::new(stream);
        loop {
            let mut asked = read(&mut requests)?;
            let token = asked.headers.get("idempotency-key").cloned();
            let behaviour = *lock(&self.behaviour);
            if !matches!(behaviour, Behaviour::Hang | Behaviour::Refuse(..)) {
                asked.id = Some(self.send(&token.unwrap_or_default()));
            }
            let id = asked.id.clone();
            lock(&self.asked).push(asked);
            match behaviour {
                Behaviour::Accept => {}
                Behaviour::HoldAnswer => self.wait_while(Behaviour::HoldAnswer),
                Behaviour::HangInAnswer => {
                    write!(
                        answers,
                        "HTTP/1.1 202 Accepted\r\nContent-Length: 64\r\n\r\n{{"
                    )?;
                    self.wait_while(behaviour);
                    anyhow::bail!("the answer stays unfinished");
                }
                Behaviour::Hang => self.wait_while(Behaviour::Hang),
                Behaviour::Refuse(status, retry_after) => {
                    let header = retry_after.map(|it| format!("Retry-After: {it}\r\n"));
                    let header = header.unwrap_or_default();
                    write!(
                        answers,
                        "HTTP/1.1 {status} No\r\n{header}Content-Length: 0\r\n\r\n"
                    )?;
                    continue;
                }
            }
            let body = json!({"data": {"id": id}}).to_string();
            let length = body.len();
            write!(
                answers,
                "HTTP/1.1 202 Accepted\r\nContent-Length: {length}\r\n\r\n{body}"
            )?;
        }
    }

    fn send(&self, token: &str) -> String {
        let mut sent = lock(&self.sent);
        let known = sent.iter().find(|(it, _)| it == token);
        if let Some((_, id)) = known.filter(|_| self.honours_tokens) {
            return id.clone();
        }
        let id = format!("{}-{}", self.name, sent.len());
        sent.push((token.to_owned(), id.clone()));
        id
    }

    fn wait_while(&self, behaviour: Behaviour) {
        let waited = self
            .changed
            .wait_timeout_while(lock(&self.behaviour), FOR_EVER, |now| *now == behaviour);
        drop(waited);
    }
}

fn read(requests: &mut BufReader<TcpStream>) -> Result<Asked> {
    let mut headers = HashMap::new();
    let mut first = String::new();
    anyhow::ensure!(requests.read_line(&mut first)? > 0, "closed");
    loop {
        let mut line = String::new();
        anyhow::ensure!(requests.read_line(&mut line)? > 0, "closed");
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length").context("a length")?.parse()?;
    let mut body = vec![0; length];
    requests.read_exact(&mut body)?;
    Ok(Asked {
        headers,
        body: serde_json::from_slice(&body)?,
        id: None,
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
