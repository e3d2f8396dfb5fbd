//! Provider `http`: any gateway that takes a POST with JSON. What its fields are called, who may call it and what its
//! answers mean is configured.

mod answer;
mod request;

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Certificate, Client, Method, Response, Url};
use service_runtime::http_client::RequestSpan;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;
use tracing::Instrument;

pub use answer::Statuses;
pub use request::{Fields, Place};

use super::codes::ErrorCode;
use super::provider::{Accepted, OutboundSms, Provider, SendError};

/// How long a hand-over waits for others to end before it is put back.
const ROOM_WITHIN: Duration = Duration::from_secs(1);
/// Longest wait for a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Where the idempotency token, the `message_id`, is put.
#[derive(Debug, Clone)]
pub enum Token {
    /// A header of the request.
    Header(HeaderName),
    /// A field of its body.
    Field(Place),
}

/// One gateway, as configured.
#[derive(Debug)]
pub struct HttpProvider {
    name: String,
    url: Url,
    client: Client,
    fields: Fields,
    token: Token,
    message_id: Option<Place>,
    statuses: Statuses,
    timeout: Duration,
    room: Semaphore,
    /// When a hand-over last ended, or found room.
    moved: Mutex<Instant>,
}

/// What a [`HttpProvider`] is made of.
#[derive(Debug)]
pub struct Settings {
    /// As stored and counted.
    pub name: String,
    /// Where to POST.
    pub url: Url,
    /// Who may vouch for it, besides the system's authorities.
    pub authorities: Vec<Certificate>,
    /// Who we are: headers, marked as sensitive.
    pub auth: HeaderMap,
    /// The body.
    pub fields: Fields,
    /// Where the idempotency token goes.
    pub token: Token,
    /// Where an answer has the gateway's own id.
    pub message_id: Option<Place>,
    /// What the statuses of answers mean.
    pub statuses: Statuses,
    /// Longest hand-over.
    pub timeout: Duration,
    /// Hand-overs at once.
    pub max_in_flight: usize,
}

impl HttpProvider {
    /// Connects when it is first used.
    ///
    /// # Errors
    /// If the TLS library does not start.
    pub fn new(settings: Settings) -> reqwest::Result<Self> {
        let client = Client::builder()
            .connect_timeout(CONNECT_WITHIN)
            // An SMS sent to wherever an answer points would take the secret along.
            .redirect(reqwest::redirect::Policy::none())
            .default_headers(settings.auth)
            .tls_certs_merge(settings.authorities)
            .build()?;
        Ok(Self {
            name: settings.name,
            url: settings.url,
            client,
            fields: settings.fields,
            token: settings.token,
            message_id: settings.message_id,
            statuses: settings.statuses,
            timeout: settings.timeout,
            room: Semaphore::new(settings.max_in_flight),
            moved: Mutex::new(Instant::now()),
        })
    }

    async fn hand_over(&self, sms: &OutboundSms) -> Result<Accepted, SendError> {
        let _room = self.room().await.ok_or(SendError::Full)?;
        let answer = self.ask(sms).await;
        *self.moved.lock() = Instant::now();
        answer
    }

    /// Waits a little where others are about to end. If none has for a while, the provider hangs, and SMS of others must not
    /// wait for it: they are claimed together.
    async fn room(&self) -> Option<SemaphorePermit<'_>> {
        if let Ok(room) = self.room.try_acquire() {
            *self.moved.lock() = Instant::now();
            return Some(room);
        }
        if self.moved.lock().elapsed() > ROOM_WITHIN {
            return None;
        }
        let since = Instant::now();
        let room = tokio::time::timeout(ROOM_WITHIN, self.room.acquire()).await;
        // While outcomes of its batch are being stored nobody looks: the SMS may be another's by then.
        let in_time = since.elapsed() <= 2 * ROOM_WITHIN;
        room.ok()?.ok().filter(|_| in_time)
    }

    async fn ask(&self, sms: &OutboundSms) -> Result<Accepted, SendError> {
        let until = Instant::now() + self.timeout;
        let mut span = RequestSpan::begin(&Method::POST, &self.url);
        let post = self.post(sms).instrument(span.span().clone());
        let answer = tokio::time::timeout_at(until, post)
            .await
            .map_err(|_| retryable(ErrorCode::ProviderTimeout))
            .and_then(|sent| sent.map_err(|error| broken(&self.name, error)))
            .and_then(|response| {
                let (status, headers) = (response.status(), response.headers());
                span.answered(status);
                let error = self.statuses.error_of(status, headers);
                error.map_or(Ok(response), Err)
            });
        match answer {
            Ok(response) => Ok(self.accepted(sms, response, until).await),
            Err(error) => {
                if let Some(code) = error.code() {
                    span.fail(code.as_str());
                }
                Err(error)
            }
        }
    }

    async fn post(&self, sms: &OutboundSms) -> reqwest::Result<Response> {
        let mut body = self.fields.body(sms);
        let token = sms.message_id.to_string();
        let mut request = self.client.post(self.url.clone());
        match &self.token {
            Token::Field(place) => place.put(&mut body, token.into()),
            Token::Header(name) => request = request.header(name, token),
        }
        let json = HeaderValue::from_static("application/json");
        let request = request.header(CONTENT_TYPE, json).body(body.to_string());
        // Without headers of the trace: the gateway is not ours.
        request.send().await
    }

    /// The gateway has taken it, whatever the rest of the answer is like: asking again might send it again.
    async fn accepted(&self, sms: &OutboundSms, response: Response, until: Instant) -> Accepted {
        let Some(place) = &self.message_id else {
            return Accepted {
                provider_message_id: None,
            };
        };
        let read = tokio::time::timeout_at(until, answer::message_id(response, place));
        let provider_message_id = read.await.ok().flatten();
        if provider_message_id.is_none() {
            tracing::warn!(
                provider = self.name,
                message_id = %sms.message_id,
                "the answer has no id of the provider's: a delivery receipt will find no SMS"
            );
        }
        Accepted {
            provider_message_id,
        }
    }
}

impl Provider for HttpProvider {
    fn name(&self) -> &str {
        &self.name
    }

    fn send<'a>(&'a self, sms: &'a OutboundSms) -> BoxFuture<'a, Result<Accepted, SendError>> {
        self.hand_over(sms).boxed()
    }
}

/// Without the URL, which may hold a secret.
fn broken(provider: &str, error: reqwest::Error) -> SendError {
    let timed_out = error.is_timeout();
    let error = format!("{:#}", anyhow::Error::new(error.without_url()));
    tracing::debug!(provider, error, "no answer from the provider");
    retryable(if timed_out {
        ErrorCode::ProviderTimeout
    } else {
        ErrorCode::ProviderUnreachable
    })
}

fn retryable(code: ErrorCode) -> SendError {
    SendError::Retryable {
        code,
        retry_after: None,
    }
}
