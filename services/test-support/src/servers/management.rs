//! RabbitMQ's management API, for what AMQP cannot do: virtual hosts, and looking at queues and connections.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use ureq::http::StatusCode;

/// What the API says of a message that a queue did not take; for so long it is published again.
const REJECTED: &str = "Unable to publish message";
const REJECTED_FOR: Duration = Duration::from_secs(30);
const TRY_EVERY: Duration = Duration::from_millis(100);

/// A client with the rights of an administrator.
#[derive(Debug, Clone)]
pub struct Management {
    base: String,
    user: String,
    password: String,
    agent: ureq::Agent,
}

impl Management {
    /// `url` is like `http://user:password@127.0.0.1:15672`.
    pub fn from_url(url: &str) -> Result<Self> {
        let parts = || {
            let (login, address) = url.strip_prefix("http://")?.split_once('@')?;
            let (user, password) = login.split_once(':')?;
            Some(Self::new(address.trim_end_matches('/'), user, password))
        };
        parts().context("the management URL is not like http://user:password@host:port")
    }

    /// `address` is host and port.
    pub(super) fn new(address: &str, user: &str, password: &str) -> Self {
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(10)))
            .http_status_as_error(false)
            // A pooled connection would be stale after a restart of the broker.
            .max_idle_connections(0)
            .build()
            .into();
        Self {
            base: format!("http://{address}"),
            user: user.into(),
            password: password.into(),
            agent,
        }
    }

    /// The URL with user and password.
    #[must_use]
    pub fn url(&self) -> String {
        self.base.replacen(
            "http://",
            &format!("http://{}:{}@", self.user, self.password),
            1,
        )
    }

    /// Creates a virtual host and gives our user all rights there.
    pub fn create_vhost(&self, name: &str) -> Result<()> {
        let vhost = segment(name);
        self.call("PUT", &format!("/api/vhosts/{vhost}"), Some(&json!({})))?;
        let all = json!({"configure": ".*", "write": ".*", "read": ".*"});
        self.call(
            "PUT",
            &format!("/api/permissions/{vhost}/{}", self.user),
            Some(&all),
        )?;
        Ok(())
    }

    /// Deletes a virtual host with all that is in it, and closes its connections.
    pub fn delete_vhost(&self, name: &str) -> Result<()> {
        self.call("DELETE", &format!("/api/vhosts/{}", segment(name)), None)
            .map(drop)
    }

    /// The queues of a virtual host, as the API describes them. The counts of messages lag behind by seconds for quorum
    /// queues: ask for the messages with [`Self::get_messages`] rather than assert on a count.
    pub fn queues(&self, vhost: &str) -> Result<Vec<Value>> {
        self.list(&format!("/api/queues/{}", segment(vhost)))
    }

    /// One queue, or `None` if it does not exist.
    pub fn queue(&self, vhost: &str, name: &str) -> Result<Option<Value>> {
        self.get(&format!("/api/queues/{}/{}", segment(vhost), segment(name)))
    }

    /// The bindings whose source is this exchange.
    pub fn bindings(&self, vhost: &str, exchange: &str) -> Result<Vec<Value>> {
        let (vhost, exchange) = (segment(vhost), segment(exchange));
        self.list(&format!(
            "/api/exchanges/{vhost}/{exchange}/bindings/source"
        ))
    }

    /// Publishes a message with any body, valid or not; `properties` as in AMQP (`type`, `headers`, …). Gives whether
    /// it reached a queue. Tries again while a queue cannot store it: on a slow disk a quorum queue takes its time to begin.
    pub fn publish(
        &self,
        vhost: &str,
        exchange: &str,
        routing_key: &str,
        properties: &Value,
        body: &[u8],
    ) -> Result<bool> {
        // The API calls the default exchange by this name.
        let exchange = if exchange.is_empty() {
            "amq.default"
        } else {
            exchange
        };
        let path = format!(
            "/api/exchanges/{}/{}/publish",
            segment(vhost),
            segment(exchange)
        );
        let message = json!({
            "properties": properties,
            "routing_key": routing_key,
            "payload": STANDARD.encode(body),
            "payload_encoding": "base64",
        });
        let until = Instant::now() + REJECTED_FOR;
        let answer = loop {
            match self.call("POST", &path, Some(&message)) {
                Err(error) if error.to_string().contains(REJECTED) && Instant::now() < until => {
                    thread::sleep(TRY_EVERY);
                }
                answer => break answer?,
            }
        };
        let answer = answer.context("no such exchange")?;
        Ok(answer["routed"].as_bool().unwrap_or(false))
    }

    /// Takes up to `count` messages out of a queue, each with `payload`, `properties` and `routing_key`.
    pub fn get_messages(&self, vhost: &str, queue: &str, count: usize) -> Result<Vec<Value>> {
        let path = format!("/api/queues/{}/{}/get", segment(vhost), segment(queue));
        let wish = json!({"count": count, "ackmode": "ack_requeue_false", "encoding": "auto"});
        match self.call("POST", &path, Some(&wish))? {
            Some(Value::Array(messages)) => Ok(messages),
            answer => bail!("no messages from {queue}: {answer:?}"),
        }
    }

    /// Declares a durable queue and binds it to a fanout exchange.
    pub fn bind_queue(&self, vhost: &str, exchange: &str, queue: &str) -> Result<()> {
        let (vhost, exchange, queue) = (segment(vhost), segment(exchange), segment(queue));
        let durable = json!({"durable": true});
        self.call(
            "PUT",
            &format!("/api/queues/{vhost}/{queue}"),
            Some(&durable),
        )?;
        let path = format!("/api/bindings/{vhost}/e/{exchange}/q/{queue}");
        let bound = self.call("POST", &path, Some(&json!({})))?;
        bound.map(drop).context("no such exchange")
    }

    /// Deletes a queue with its messages.
    pub fn delete_queue(&self, vhost: &str, name: &str) -> Result<()> {
        let path = format!("/api/queues/{}/{}", segment(vhost), segment(name));
        self.call("DELETE", &path, None).map(drop)
    }

    /// Deletes an exchange with its bindings.
    pub fn delete_exchange(&self, vhost: &str, name: &str) -> Result<()> {
        let path = format!("/api/exchanges/{}/{}", segment(vhost), segment(name));
        self.call("DELETE", &path, None).map(drop)
    }

    /// Any GET of the API; `None` if there is no such thing.
    pub fn get(&self, path: &str) -> Result<Option<Value>> {
        self.call("GET", path, None)
    }

    fn list(&self, path: &str) -> Result<Vec<Value>> {
        match self.get(path)? {
            Some(Value::Array(items)) => Ok(items),
            answer => bail!("no list at {path}: {answer:?}"),
        }
    }

    fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Option<Value>> {
        let what = || format!("{method} {path}");
        let login = STANDARD.encode(format!("{}:{}", self.user, self.password));
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header("authorization", format!("Basic {login}"))
            .header("content-type", "application/json")
            .body(body.map(Value::to_string).unwrap_or_default())?;
        let mut response = self.agent.run(request).with_context(what)?;
        let status = response.status();
        if status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let text = response.body_mut().read_to_string().with_context(what)?;
        if !status.is_success() {
            bail!("{}: {status}: {text}", what());
        }
        Ok(Some(serde_json::from_str(&text).unwrap_or(Value::Null)))
    }
}

/// A name as one segment of a path.
pub(super) fn segment(name: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    name.bytes().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_keeps_user_and_password() {
        let url = "http://identity:secret@127.0.0.1:15672";
        assert_eq!(Management::from_url(url).expect("a valid URL").url(), url);
        assert!(Management::from_url("http://127.0.0.1:15672").is_err());
    }

    #[test]
    fn names_are_escaped_in_paths() {
        assert_eq!(segment("/"), "%2F");
        assert_eq!(segment("server-a.0_x~1"), "server-a.0_x~1");
        assert_eq!(segment("ü b"), "%C3%BC%20b");
    }
}
