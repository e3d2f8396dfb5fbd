//! JSON over plain HTTP.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// A client that keeps its connections. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Http(ureq::Agent);

/// What a server answered.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The header `content-type`.
    pub content_type: String,
    headers: ureq::http::HeaderMap,
    /// The body, `null` if it is not JSON.
    pub body: Value,
    /// The body as it came.
    pub text: String,
}

impl Answer {
    /// A header's text, empty when missing.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }
}

impl Default for Http {
    fn default() -> Self {
        Self::new()
    }
}

impl Http {
    /// A client of its own, with a limit of 30 s for each call.
    #[must_use]
    pub fn new() -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(30)))
            // Of the environment: it is for what is outside of this machine.
            .proxy(None)
            .http_status_as_error(false);
        Self(config.build().into())
    }

    /// Sends `body` as JSON with one more header.
    pub fn call(
        &self,
        method: &str,
        url: &str,
        header: Option<(&str, &str)>,
        body: Option<&Value>,
    ) -> Result<Answer> {
        self.call_with(method, url, header.as_slice(), body)
    }

    /// Sends `body` as JSON with more headers.
    pub fn call_with(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Answer> {
        let mut request = ureq::http::Request::builder().method(method).uri(url);
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.map(Value::to_string).unwrap_or_default())?;
        let what = || format!("{method} {url}");
        let mut response = self.0.run(request).with_context(what)?;
        let status = response.status().as_u16();
        let content_type = response
            .headers()
            .get("content-type")
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        let headers = response.headers().clone();
        let text = response.body_mut().read_to_string().with_context(what)?;
        Ok(Answer {
            status,
            content_type,
            headers,
            body: serde_json::from_str(&text).unwrap_or(Value::Null),
            text,
        })
    }

    /// What is at `url`.
    pub fn get(&self, url: &str) -> Result<Answer> {
        self.call("GET", url, None, None)
    }
}
