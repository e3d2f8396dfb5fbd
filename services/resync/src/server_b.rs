//! Server B's admin API, as far as it is needed here.

use std::time::Duration;

use anyhow::Context;
use reqwest::{Client, Method, RequestBuilder, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use thiserror::Error;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::cli::ServerBArgs;

/// For one call; a write that waits for the replicas takes up to 25 s.
const CALL: Duration = Duration::from_secs(5);
const WAITING_CALL: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(3);

/// A position of the stream; a later epoch is ahead of any sequence of an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub epoch: i64,
    pub sequence: i64,
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.epoch, self.sequence)
    }
}

/// A full sync as server B tells of it.
#[derive(Debug, Clone, Deserialize)]
pub struct FullSync {
    pub sync_id: Uuid,
    /// `requested`, `running`, `completed`, `failed`.
    pub status: String,
    #[serde(with = "time::serde::rfc3339::option")]
    pub finished_at: Option<OffsetDateTime>,
    pub users_total: Option<u64>,
    pub users_published: u64,
    pub epoch: Option<i64>,
    pub sequence: Option<i64>,
    pub error: Option<String>,
}

impl FullSync {
    /// What the sync has read.
    pub fn position(&self) -> Option<Position> {
        let (epoch, sequence) = self.epoch.zip(self.sequence)?;
        Some(Position { epoch, sequence })
    }
}

/// A live replica as server B knows it.
#[derive(Debug, Clone, Deserialize)]
pub struct Replica {
    /// Its pod's name.
    pub instance: String,
    pub proven_epoch: Option<i64>,
    pub proven_sequence: Option<i64>,
    /// When server B heard of this; of the clock that `FullSync::finished_at` is of, the database's.
    #[serde(with = "time::serde::rfc3339")]
    pub received_at: OffsetDateTime,
}

impl Replica {
    /// The last position at which its cache equalled the database.
    pub fn proven(&self) -> Option<Position> {
        let (epoch, sequence) = self.proven_epoch.zip(self.proven_sequence)?;
        Some(Position { epoch, sequence })
    }
}

/// A user that was just created.
#[derive(Debug, Deserialize)]
pub struct CreatedUser {
    pub user_id: i64,
    /// Shown only in this answer.
    pub api_key: SecretString,
}

/// What became of an SMS.
#[derive(Debug, Deserialize)]
pub struct Sms {
    pub user_id: i64,
    pub status: String,
    pub error_code: Option<String>,
}

/// Why a call failed.
#[derive(Debug, Error)]
pub enum CallError {
    /// No answer, or none that makes sense.
    #[error("{call}: {reason}")]
    NoAnswer { call: String, reason: String },
    /// An answer that is an error.
    #[error("{call}: {status}, {detail}")]
    Refused {
        call: String,
        status: StatusCode,
        detail: String,
    },
}

impl CallError {
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(StatusCode::NOT_FOUND)
    }

    /// The server says that nothing was done, and may do it later.
    pub fn is_unavailable(&self) -> bool {
        self.status() == Some(StatusCode::SERVICE_UNAVAILABLE)
    }

    /// The request itself is wrong: it would be refused again.
    pub fn is_at_fault(&self) -> bool {
        matches!(
            self.status(),
            Some(StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY)
        )
    }

    fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            Self::NoAnswer { .. } => None,
        }
    }
}

#[derive(Deserialize)]
struct RequestedSync {
    sync_id: Uuid,
}

#[derive(Deserialize)]
struct Replicas {
    replicas: Vec<Replica>,
}

/// A client of server B's admin API.
#[derive(Debug, Clone)]
pub struct ServerB {
    http: Client,
    url: Url,
    token: SecretString,
}

impl ServerB {
    /// # Errors
    /// If the token cannot be read or the URL is none for HTTP.
    pub fn new(args: &ServerBArgs) -> anyhow::Result<Self> {
        let path = &args.admin_token_file;
        let token = std::fs::read_to_string(path)
            .with_context(|| format!("ADMIN_TOKEN_FILE: cannot read {}", path.display()))?;
        let token = token.trim();
        anyhow::ensure!(
            !token.is_empty(),
            "ADMIN_TOKEN_FILE: {} is empty",
            path.display()
        );
        anyhow::ensure!(
            matches!(args.server_b_url.scheme(), "http" | "https"),
            "SERVER_B_URL: must begin with http:// or https://"
        );
        Ok(Self {
            http: client()?,
            url: args.server_b_url.clone(),
            token: token.into(),
        })
    }

    /// Asks for a full sync; its id.
    pub async fn request_full_sync(&self) -> Result<Uuid, CallError> {
        let path = "/admin/v1/full-syncs";
        let answer: RequestedSync = self.call(Method::POST, path, None).await?;
        Ok(answer.sync_id)
    }

    /// How far a full sync is.
    pub async fn full_sync(&self, sync_id: Uuid) -> Result<FullSync, CallError> {
        let path = format!("/admin/v1/full-syncs/{sync_id}");
        self.call(Method::GET, &path, None).await
    }

    /// The live replicas.
    pub async fn replicas(&self) -> Result<Vec<Replica>, CallError> {
        let answer: Replicas = self.call(Method::GET, "/admin/v1/replicas", None).await?;
        Ok(answer.replicas)
    }

    /// Creates a user and waits until the live replicas know it.
    pub async fn create_user(&self, username: &str) -> Result<CreatedUser, CallError> {
        let path = "/admin/v1/users?wait=all";
        let body = json!({"username": username});
        self.call(Method::POST, path, Some(&body)).await
    }

    /// Deletes a user with its key.
    pub async fn delete_user(&self, user_id: i64) -> Result<(), CallError> {
        let path = format!("/admin/v1/users/{user_id}");
        self.call(Method::DELETE, &path, None).await
    }

    /// What became of an SMS; `None` while server B has not taken it from the queue.
    pub async fn sms(&self, message_id: Uuid) -> Result<Option<Sms>, CallError> {
        let path = format!("/admin/v1/sms/{message_id}");
        match self.call(Method::GET, &path, None).await {
            Ok(sms) => Ok(Some(sms)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T, CallError> {
        let limit = if path.contains("wait=") {
            WAITING_CALL
        } else {
            CALL
        };
        let url = joined(&self.url, path);
        let mut request = self.http.request(method.clone(), url).timeout(limit);
        request = request.bearer_auth(self.token.expose_secret());
        if let Some(body) = body {
            request = request.json(body);
        }
        send(request, || format!("{method} {path}")).await
    }
}

/// An HTTP client without redirects and proxies: a token or key goes where it was meant to.
pub fn client() -> anyhow::Result<Client> {
    Client::builder()
        .connect_timeout(CONNECT)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("identity-sync-resync/", env!("CARGO_PKG_VERSION")))
        .build()
        .context("cannot set up an HTTP client")
}

/// A path below a base URL, which may itself have one (an Ingress with a prefix).
pub fn joined(base: &Url, path: &str) -> String {
    format!("{}{path}", base.as_str().trim_end_matches('/'))
}

/// Sends a request and reads its JSON, an empty answer as `null`.
///
/// # Errors
/// With the `detail` of a problem (RFC 9457), and never with a body.
pub async fn send<T: DeserializeOwned>(
    request: RequestBuilder,
    call: impl Fn() -> String,
) -> Result<T, CallError> {
    let no_answer = |reason: String| CallError::NoAnswer {
        call: call(),
        reason,
    };
    let transport =
        |error: reqwest::Error| no_answer(format!("{:#}", anyhow::Error::new(error.without_url())));
    let response = request.send().await.map_err(transport)?;
    let status = response.status();
    let body = response.bytes().await.map_err(transport)?;
    if !status.is_success() {
        let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
        let detail = problem["detail"].as_str().unwrap_or("no reason given");
        return Err(CallError::Refused {
            call: call(),
            status,
            detail: detail.to_owned(),
        });
    }
    let body: &[u8] = if body.is_empty() { b"null" } else { &body };
    serde_json::from_slice(body)
        .map_err(|error| no_answer(format!("{status}, but not the expected JSON: {error}")))
}
