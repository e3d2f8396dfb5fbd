//! Closed-loop load on server A: each connection sends its next SMS when it has the answer to the last, with the key of a
//! random user each time (which general load tools cannot vary).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::stats;
use crate::users;

/// The text of each SMS: one segment.
pub const TEXT: &str = "Your code is 123456. It is valid for ten minutes.";
const PATH: &str = "/api/v1/sms/send";
/// Refusals of a hundred sends at most: beyond that it is not the load that was meant.
const REFUSED_PERCENT: u64 = 1;

/// A load.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Sends under way at a time.
    pub connections: usize,
    /// Users 1 to this one send.
    pub users: u64,
    /// How long.
    pub lasts: Duration,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Answers 202.
    pub accepted: u64,
    /// Other answers.
    pub refused: u64,
    /// One of these.
    pub refusal: Option<String>,
    /// From the first send to the last answer.
    pub took: Duration,
    /// Of each accepted send, in milliseconds.
    pub latencies: Vec<f64>,
}

impl Outcome {
    /// Accepted sends a second.
    pub fn rate(&self) -> f64 {
        stats::number(self.accepted) / self.took.as_secs_f64()
    }
}

/// Loads the server at `url`.
///
/// # Errors
/// When it is not there, or refuses more than a hundredth.
pub async fn run(url: &str, load: Load) -> Result<Outcome> {
    let address: SocketAddr = url.trim_start_matches("http://").parse().context("a URL")?;
    let began = Instant::now();
    let end = began + load.lasts;
    let mut connections = JoinSet::new();
    for _ in 0..load.connections {
        connections.spawn(one_connection(address, load.users, end));
    }
    let mut outcome = Outcome::default();
    while let Some(ended) = connections.join_next().await {
        let of_one = ended.context("a connection panicked")??;
        outcome.accepted += of_one.accepted;
        outcome.refused += of_one.refused;
        outcome.refusal = outcome.refusal.or(of_one.refusal);
        outcome.latencies.extend(of_one.latencies);
    }
    outcome.took = began.elapsed();
    let bound = outcome.accepted * REFUSED_PERCENT / 100;
    ensure!(
        outcome.refused <= bound,
        "{} of {} sends were refused, such as with {}",
        outcome.refused,
        outcome.refused + outcome.accepted,
        outcome.refusal.unwrap_or_default()
    );
    Ok(outcome)
}

async fn one_connection(address: SocketAddr, users: u64, end: Instant) -> Result<Outcome> {
    let stream = TcpStream::connect(address).await.context("connecting")?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let body = Bytes::from(
        serde_json::json!({"to": "+14155550123", "from": "ACME", "body": TEXT}).to_string(),
    );
    let host = address.to_string();
    let mut outcome = Outcome::default();
    loop {
        let began = Instant::now();
        if began >= end {
            return Ok(outcome);
        }
        let request = Request::post(PATH)
            .header("host", &host)
            .header("content-type", "application/json")
            .header("api-key", users::key(rand::random_range(1..=users)))
            .body(Full::new(body.clone()))?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let answer = response.into_body().collect().await?.to_bytes();
        if status == StatusCode::ACCEPTED {
            outcome.accepted += 1;
            outcome.latencies.push(began.elapsed().as_secs_f64() * 1e3);
        } else {
            outcome.refused += 1;
            let refusal = || format!("{status}: {}", String::from_utf8_lossy(&answer));
            outcome.refusal.get_or_insert_with(refusal);
        }
    }
}
