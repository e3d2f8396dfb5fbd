//! An SMS gateway in a process of its own (`src/bin/sms-gateway.rs`), told how to fail, and asked what it was asked for.

use std::collections::HashMap;
use std::env;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use test_support::Http;
use test_support::children::{self, Launch, Process};

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

/// The process; it ends with this.
#[derive(Debug)]
pub struct Gateway {
    url: String,
    http: Http,
    _process: Process,
}

impl Gateway {
    /// One that sends an SMS once for each idempotency token.
    pub fn start(name: &str) -> Self {
        Self::spawn(&[name])
    }

    /// One that does not look at tokens.
    pub fn without_tokens(name: &str) -> Self {
        Self::spawn(&[name, "--ignore-tokens"])
    }

    fn spawn(arguments: &[&str]) -> Self {
        let program = Path::new(env!("CARGO_BIN_EXE_sms-gateway"));
        let mark = env::var_os(children::MARK).unwrap_or_default();
        let mut command = children::command(program, Path::new(&mark), Launch::default());
        command.args(arguments).stdout(Stdio::piped());
        let process = children::spawn(command).expect("the gateway starts");
        let mut address = String::new();
        let stdout = process.take_stdout().expect("stdout is piped");
        let read = BufReader::new(stdout).read_line(&mut address);
        read.expect("the gateway tells its address");
        Self {
            url: format!("http://{}", address.trim()),
            http: Http::new(),
            _process: process,
        }
    }

    pub fn url(&self) -> String {
        format!("{}/v1/messages", self.url)
    }

    /// Host and port.
    pub fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    /// From now on; also for requests whose answer is held.
    pub fn behave(&self, behaviour: Behaviour) {
        let told = match behaviour {
            Behaviour::Accept => "accept".to_owned(),
            Behaviour::HoldAnswer => "hold_answer".to_owned(),
            Behaviour::HangInAnswer => "hang_in_answer".to_owned(),
            Behaviour::Hang => "hang".to_owned(),
            Behaviour::Refuse(status, None) => format!("refuse {status}"),
            Behaviour::Refuse(status, Some(seconds)) => format!("refuse {status} {seconds}"),
        };
        let url = format!("{}/behave", self.url);
        let body = json!({ "behave": told });
        let answer = self.http.call("POST", &url, None, Some(&body));
        assert_eq!(answer.expect("the gateway answers").status, 200);
    }

    /// All requests.
    pub fn asked(&self) -> Vec<Asked> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let headers = |asked: &Value| {
            let headers = asked["headers"].as_object().into_iter().flatten();
            headers
                .map(|(name, value)| (name.clone(), text(value).unwrap_or_default()))
                .collect()
        };
        self.list("asked")
            .iter()
            .map(|asked| Asked {
                headers: headers(asked),
                body: asked["body"].clone(),
                id: text(&asked["id"]),
            })
            .collect()
    }

    /// The tokens of all SMS that went on the air, one for each time.
    pub fn tokens_sent(&self) -> Vec<String> {
        let tokens = self.list("sent");
        let tokens = tokens.iter().map(|token| token.as_str().expect("a text"));
        tokens.map(str::to_owned).collect()
    }

    fn list(&self, what: &str) -> Vec<Value> {
        let answer = self.http.get(&format!("{}/{what}", self.url));
        let answer = answer.expect("the gateway answers").body;
        answer.as_array().expect("a list").clone()
    }
}
