//! An SMS gateway that speaks HTTP, fails as it is told, and remembers what it was asked for: a process of its own, as a
//! carrier's is. `sms-gateway NAME [--ignore-tokens]` writes its address to stdout.
//!
//! - `POST /v1/messages`: an SMS
//! - `POST /behave`: how it behaves from now on, also towards requests whose answer is held (`{"behave": "…"}`): `accept`,
//!   `hold_answer`, `hang_in_answer`, `hang`, or `refuse STATUS [RETRY-AFTER]`
//! - `GET /asked`, `GET /sent`: all requests for an SMS, and the tokens of those that went on the air

use std::env;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Map, Value, json};

/// Longer than any provider's timeout.
const FOR_EVER: Duration = Duration::from_mins(1);

#[derive(Debug)]
struct Gateway {
    name: String,
    honours_tokens: bool,
    behaviour: Mutex<String>,
    changed: Condvar,
    asked: Mutex<Vec<Value>>,
    /// Tokens and ids: each is an SMS on the air.
    sent: Mutex<Vec<(String, String)>>,
}

fn main() -> Result<()> {
    let mut arguments = env::args().skip(1);
    let gateway = Arc::new(Gateway {
        name: arguments.next().context("a name")?,
        honours_tokens: arguments.next().is_none(),
        behaviour: Mutex::new("accept".to_owned()),
        changed: Condvar::new(),
        asked: Mutex::default(),
        sent: Mutex::default(),
    });
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{}", listener.local_addr()?);
    io::stdout().flush()?;
    for stream in listener.incoming() {
        let (gateway, stream) = (Arc::clone(&gateway), stream?);
        // Ends when the client closes.
        thread::spawn(move || gateway.serve(stream));
    }
    Ok(())
}

impl Gateway {
    fn serve(&self, stream: TcpStream) -> Result<()> {
        let mut answers = stream.try_clone()?;
        let mut requests = BufReader::new(stream);
        loop {
            let (path, headers, body) = read(&mut requests)?;
            match path.as_str() {
                "/v1/messages" => self.message(&mut answers, &headers, &body)?,
                "/behave" => {
                    let told = body["behave"].as_str().context("a behaviour")?;
                    told.clone_into(&mut lock(&self.behaviour));
                    self.changed.notify_all();
                    answer(&mut answers, "200 OK", &json!({}))?;
                }
                "/asked" => answer(&mut answers, "200 OK", &json!(*lock(&self.asked)))?,
                "/sent" => {
                    let sent = lock(&self.sent);
                    let tokens: Vec<_> = sent.iter().map(|(token, _)| token).collect();
                    answer(&mut answers, "200 OK", &json!(tokens))?;
                }
                _ => answer(&mut answers, "404 Not Found", &json!({}))?,
            }
        }
    }

    fn message(
        &self,
        answers: &mut TcpStream,
        headers: &Map<String, Value>,
        body: &Value,
    ) -> Result<()> {
        let behaviour = lock(&self.behaviour).clone();
        let refusal = behaviour.strip_prefix("refuse ");
        let sends = behaviour != "hang" && refusal.is_none();
        let token = headers.get("idempotency-key").and_then(Value::as_str);
        let id = sends.then(|| self.send(token.unwrap_or_default()));
        lock(&self.asked).push(json!({"headers": headers, "body": body, "id": id}));
        if let Some(refusal) = refusal {
            let (status, retry_after) = refusal.split_once(' ').unwrap_or((refusal, ""));
            let header = match retry_after {
                "" => String::new(),
                seconds => format!("Retry-After: {seconds}\r\n"),
            };
            write!(
                answers,
                "HTTP/1.1 {status} No\r\n{header}Content-Length: 0\r\n\r\n"
            )?;
            return Ok(());
        }
        match behaviour.as_str() {
            "accept" => {}
            "hold_answer" | "hang" => self.wait_while(&behaviour),
            "hang_in_answer" => {
                write!(
                    answers,
                    "HTTP/1.1 202 Accepted\r\nContent-Length: 64\r\n\r\n{{"
                )?;
                self.wait_while(&behaviour);
                bail!("the answer stays unfinished");
            }
            unknown => bail!("no behaviour: {unknown}"),
        }
        answer(answers, "202 Accepted", &json!({"data": {"id": id}}))
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

    fn wait_while(&self, behaviour: &str) {
        let waited = self
            .changed
            .wait_timeout_while(lock(&self.behaviour), FOR_EVER, |now| *now == behaviour);
        drop(waited);
    }
}

/// The path, the headers by their lower-case names, and the JSON of the body.
fn read(requests: &mut BufReader<TcpStream>) -> Result<(String, Map<String, Value>, Value)> {
    let first = line(requests)?;
    let path = first.split(' ').nth(1).context("a path")?.to_owned();
    let mut headers = Map::new();
    loop {
        let line = line(requests)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.insert(name.to_lowercase(), value.into());
    }
    let length = headers.get("content-length").and_then(Value::as_str);
    let mut body = vec![0; length.unwrap_or("0").parse()?];
    requests.read_exact(&mut body)?;
    Ok((
        path,
        headers,
        serde_json::from_slice(&body).unwrap_or_default(),
    ))
}

fn line(requests: &mut BufReader<TcpStream>) -> Result<String> {
    let mut line = String::new();
    ensure!(requests.read_line(&mut line)? > 0, "closed");
    Ok(line)
}

fn answer(answers: &mut TcpStream, status: &str, body: &Value) -> Result<()> {
    let body = body.to_string();
    let length = body.len();
    // In one piece: behind a second one the client might wait for an acknowledgement.
    let text = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}");
    answers.write_all(text.as_bytes())?;
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
