//! What became of SMS, asked of server B over HTTP.
//!
//! Only the status endpoints need it: neither sending nor readiness does.

pub mod metrics;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use parking_lot::Mutex;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use service_runtime::http_client::RequestSpan;
use service_runtime::trace::TraceContext;
use tokio::sync::Semaphore;
use tracing::Instrument;
use uuid::Uuid;
use wire_contract::{HEADER_TRACEPARENT, HEADER_TRACESTATE, SmsPage, SmsRecord, UserId};

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(1);
/// Longest wait for a whole answer.
const ANSWER: Duration = Duration::from_secs(3);
/// Questions under way at most: a slow server B must not hold thousands of requests here.
const MAX_IN_FLIGHT: usize = 64;
/// Of them, those of one user at most: nobody takes them from all others.
const MAX_OF_A_USER: usize = 4;
/// Bytes of an answer at most; the longest page takes a tenth of it.
const MAX_ANSWER: usize = 4 * 1024 * 1024;
/// Characters of the token at least.
const MIN_TOKEN: usize = 16;

/// Where server B is.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Status of SMS")]
pub struct ServerBArgs {
    /// URL of server B's API, which is asked what became of SMS; without it those questions get 503
    #[arg(long, env = "SERVER_B_URL", value_name = "URL")]
    server_b_url: Option<Url>,

    /// Token that server B knows server A by, at least 16 characters
    #[arg(
        long,
        env = "SERVICE_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN"
    )]
    service_token: Option<SecretString>,

    /// File with that token
    #[arg(
        long,
        env = "SERVICE_TOKEN_FILE",
        value_name = "FILE",
        conflicts_with = "service_token"
    )]
    service_token_file: Option<PathBuf>,
}

/// Asks server B. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct ServerB {
    /// `None`: not configured.
    peer: Option<Arc<Peer>>,
}

#[derive(Debug)]
struct Peer {
    http: Client,
    url: Url,
    token: SecretString,
    permits: Semaphore,
    /// Who asks, with the number of questions.
    asking: Mutex<HashMap<UserId, usize>>,
}

/// One question of a user.
struct Asking<'a> {
    of: &'a Peer,
    user_id: UserId,
}

/// Why there is no answer to show.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The user has no such SMS.
    #[error("there is no such SMS")]
    NotFound,
    /// A parameter that only server B can judge.
    #[error("{field} {detail}")]
    Invalid {
        /// Its name.
        field: String,
        /// What it must be.
        detail: String,
    },
    /// The user has as many questions under way as one may have.
    #[error("the user asks too much at one moment")]
    TooMany,
    /// Server B cannot be asked, or does not answer as it should: the word says why.
    #[error("server B does not tell: {0}")]
    Unavailable(&'static str),
}

impl AskError {
    /// The same in a word.
    fn label(&self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Invalid { .. } => "invalid",
            Self::TooMany => "too_many",
            Self::Unavailable(why) => why,
        }
    }
}

impl ServerB {
    /// By the configuration.
    pub fn new(args: &ServerBArgs) -> anyhow::Result<Self> {
        let (url, token) = match (args.server_b_url.clone(), token(args)?) {
            (None, None) => return Ok(Self::default()),
            (Some(url), Some(token)) => (url, token),
            (Some(_), None) => anyhow::bail!(
                "SERVER_B_URL is set, but no token to ask with: set SERVICE_TOKEN or SERVICE_TOKEN_FILE"
            ),
            (None, Some(_)) => anyhow::bail!(
                "SERVICE_TOKEN is set, but not where to use it: set SERVER_B_URL, such as http://server-b:8080"
            ),
        };
        ensure!(
            ["http", "https"].contains(&url.scheme()) && !url.cannot_be_a_base(),
            "SERVER_B_URL must be http:// or https://"
        );
        let http = Client::builder()
            .connect_timeout(CONNECT)
            .timeout(ANSWER)
            // The token goes where it was meant to.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!(
                "identity-sync-server-a/",
                env!("CARGO_PKG_VERSION")
            ))
            .build()
            .context("cannot set up an HTTP client")?;
        let permits = Semaphore::new(MAX_IN_FLIGHT);
        let peer = Peer {
            http,
            url,
            token,
            permits,
            asking: Mutex::default(),
        };
        Ok(Self {
            peer: Some(Arc::new(peer)),
        })
    }

    /// One SMS of a user.
    ///
    /// # Errors
    /// When the user has none of this id, or server B cannot tell.
    pub async fn one(&self, user_id: UserId, message_id: Uuid) -> Result<SmsRecord, AskError> {
        self.counted(user_id, &["sms", &message_id.to_string()], &[])
            .await
    }

    /// A page of a user's SMS; the parameters are passed on as they are.
    ///
    /// # Errors
    /// When a parameter is not valid, or server B cannot tell.
    pub async fn list(
        &self,
        user_id: UserId,
        parameters: &[(&'static str, String)],
    ) -> Result<SmsPage, AskError> {
        self.counted(user_id, &["sms"], parameters).await
    }

    async fn counted<T: DeserializeOwned>(
        &self,
        user_id: UserId,
        path: &[&str],
        parameters: &[(&'static str, String)],
    ) -> Result<T, AskError> {
        let answer = match &self.peer {
            Some(peer) => peer.ask(user_id, path, parameters).await,
            None => Err(AskError::Unavailable("not_configured")),
        };
        metrics::asked(answer.as_ref().map_or_else(AskError::label, |_| "answered"));
        answer
    }
}

impl Peer {
    fn asking(&self, user_id: UserId) -> Result<Asking<'_>, AskError> {
        let mut asking = self.asking.lock();
        let count = asking.entry(user_id).or_default();
        if *count >= MAX_OF_A_USER {
            return Err(AskError::TooMany);
        }
        *count += 1;
        Ok(Asking { of: self, user_id })
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        user_id: UserId,
        path: &[&str],
        parameters: &[(&'static str, String)],
    ) -> Result<T, AskError> {
        let _asking = self.asking(user_id)?;
        let _permit = self
            .permits
            .try_acquire()
            .map_err(|_| AskError::Unavailable("overloaded"))?;
        let mut url = self.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments
                .pop_if_empty()
                .extend(["internal", "v1", "users", &user_id.to_string()])
                .extend(path);
        }
        if !parameters.is_empty() {
            url.query_pairs_mut().extend_pairs(parameters);
        }
        let mut span = RequestSpan::begin(&Method::GET, &url);
        let inside = span.span().clone();
        let exchange = async {
            let request = self.http.get(url).bearer_auth(self.token.expose_secret());
            let response = request.headers(trace_headers()).send().await;
            let response = response.map_err(|error| transport(&error))?;
            let status = response.status();
            span.answered(status);
            judge(status, &read(response).await?)
        };
        let answer = exchange.instrument(inside).await;
        if let Err(AskError::Unavailable(why)) = &answer {
            span.fail(why);
        }
        answer
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut asking = self.of.asking.lock();
        if let Entry::Occupied(mut count) = asking.entry(self.user_id) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

async fn read(mut response: reqwest::Response) -> Result<Vec<u8>, AskError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| transport(&error))? {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(unexpected("the answer is too large"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn transport(error: &reqwest::Error) -> AskError {
    // Without its URL, which names a user.
    tracing::debug!(
        timeout = error.is_timeout(),
        connect = error.is_connect(),
        "server B does not answer"
    );
    AskError::Unavailable(if error.is_timeout() {
        "timeout"
    } else {
        "unreachable"
    })
}

/// What of a problem of server B is looked at.
#[derive(Deserialize, Default)]
struct Refusal {
    #[serde(default)]
    code: String,
    field: Option<String>,
    #[serde(default)]
    detail: String,
}

fn judge<T: DeserializeOwned>(status: StatusCode, body: &[u8]) -> Result<T, AskError> {
    if status == StatusCode::OK {
        return serde_json::from_slice(body)
            .map_err(|_| unexpected("the answer is not the JSON expected"));
    }
    let refusal: Refusal = serde_json::from_slice(body).unwrap_or_default();
    match (status, refusal.code.as_str(), refusal.field) {
        (StatusCode::NOT_FOUND, "sms_not_found", _) => Err(AskError::NotFound),
        (StatusCode::UNPROCESSABLE_ENTITY, "invalid_field", Some(field)) => {
            Err(AskError::Invalid {
                field,
                detail: refusal.detail,
            })
        }
        (StatusCode::UNAUTHORIZED, ..) => Err(unexpected(
            "it does not accept the token: SERVICE_TOKEN must be the same at both",
        )),
        (status, ..) if status.is_server_error() => Err(AskError::Unavailable("failed")),
        (status, ..) => Err(unexpected(&format!("it answers {status}"))),
    }
}

/// A fault of configuration or versions, which somebody must look at.
fn unexpected(what: &str) -> AskError {
    tracing::error!(what, "server B does not answer as it should");
    AskError::Unavailable("unexpected")
}

fn trace_headers() -> HeaderMap {
    let context = TraceContext::current();
    let headers = [
        (HEADER_TRACEPARENT, context.traceparent),
        (HEADER_TRACESTATE, context.tracestate),
    ];
    let headers = headers.into_iter().filter_map(|(name, value)| {
        let value = HeaderValue::try_from(value?).ok()?;
        Some((HeaderName::from_static(name), value))
    });
    headers.collect()
}

fn token(args: &ServerBArgs) -> anyhow::Result<Option<SecretString>> {
    let token = match (&args.service_token, &args.service_token_file) {
        (Some(token), _) => token.clone(),
        (None, Some(path)) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("SERVICE_TOKEN_FILE: cannot read {}", path.display()))?;
            SecretString::from(text.trim())
        }
        (None, None) => return Ok(None),
    };
    ensure!(
        token.expose_secret().len() >= MIN_TOKEN,
        "SERVICE_TOKEN (or the file of SERVICE_TOKEN_FILE) must have at least {MIN_TOKEN} characters"
    );
    Ok(Some(token))
}

#[cfg(test)]
#[path = "server_b_tests.rs"]
mod tests;
