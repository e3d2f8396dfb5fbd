//! `resync smoke-test`: what an installation is for, once, with a user of its own.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use reqwest::{Client, Url};
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use crate::cli::SmokeTestArgs;
use crate::deadline::{Deadline, Interrupt};
use crate::failure::USAGE;
use crate::full_sync;
use crate::said::Said;
use crate::server_b::{self, CallError, CreatedUser, ServerB};

const POLL: Duration = Duration::from_millis(500);
/// For one send.
const CALL: Duration = Duration::from_secs(10);
/// To delete the user after the time limit or a signal.
const CLEAN_UP: Duration = Duration::from_secs(10);

/// Runs the test and gives the exit code.
pub async fn run(args: &SmokeTestArgs) -> ExitCode {
    let (test, mut interrupt) = match SmokeTest::new(args) {
        Ok(prepared) => prepared,
        Err(error) => {
            tracing::error!("{error:#}");
            return ExitCode::from(USAGE);
        }
    };
    match test.run(&mut interrupt).await {
        Ok(message) => {
            tracing::info!("passed: {message}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!("failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

struct SmokeTest {
    b: ServerB,
    http: Client,
    server_a: Url,
    to: String,
    deadline: Deadline,
}

#[derive(Deserialize)]
struct Accepted {
    message_id: Uuid,
}

impl SmokeTest {
    fn new(args: &SmokeTestArgs) -> anyhow::Result<(Self, Interrupt)> {
        let interrupt = Interrupt::listen().context("cannot listen for SIGTERM")?;
        let test = Self {
            b: ServerB::new(&args.server_b)?,
            http: server_b::client()?,
            server_a: args.server_a_url.clone(),
            to: args.to.clone(),
            deadline: Deadline::after(args.timeout()),
        };
        Ok((test, interrupt))
    }

    async fn run(&self, interrupt: &mut Interrupt) -> anyhow::Result<String> {
        let username = format!("smoke-test-{}", Uuid::now_v7());
        // Not to be cut by a signal: a user that was made must be known, to be deleted.
        let user = self.create_user(&username).await?;
        let result = tokio::select! {
            result = self.send_and_find(&user) => result,
            () = interrupt.received() => Err(anyhow::anyhow!("interrupted")),
        };
        let deleted = self.delete_user(user.user_id).await;
        let message = result?;
        deleted?;
        Ok(message)
    }

    async fn create_user(&self, username: &str) -> anyhow::Result<CreatedUser> {
        full_sync::wait_for_server_b(&self.b, self.deadline).await?;
        // Not tried again without an answer: the user may have been made.
        self.retry(CallError::is_unavailable, || self.b.create_user(username))
            .await
            .with_context(|| format!("cannot create the user {username}"))
    }

    async fn send_and_find(&self, user: &CreatedUser) -> anyhow::Result<String> {
        // A replica that became ready a moment ago was not waited for, but has taken its snapshot since.
        let accepted = self
            .retry(|error| !error.is_at_fault(), || self.send(user))
            .await
            .context("server A did not accept the SMS")?;
        let message_id = accepted.message_id;
        tracing::info!("SMS {message_id} is queued");
        let mut seen = "not in server B yet".to_owned();
        loop {
            if let Some(sms) = self.retry(|_| true, || self.b.sms(message_id)).await? {
                ensure!(
                    sms.user_id == user.user_id,
                    "SMS {message_id} belongs to user {}, but user {} sent it",
                    sms.user_id,
                    user.user_id
                );
                let code = sms.error_code.as_deref().unwrap_or("no error code");
                match sms.status.as_str() {
                    "sent" | "delivered" => {
                        return Ok(format!(
                            "SMS {message_id} of user {} is {}",
                            user.user_id, sms.status
                        ));
                    }
                    "queued" | "sending" => seen = format!("{} ({code})", sms.status),
                    status => bail!("SMS {message_id} is {status}: {code}"),
                }
            }
            ensure!(
                self.deadline.pause(POLL).await,
                "SMS {message_id} was not processed in time: {seen}"
            );
        }
    }

    async fn send(&self, user: &CreatedUser) -> Result<Accepted, CallError> {
        let path = "/api/v1/sms/send";
        let request = self
            .http
            .post(server_b::joined(&self.server_a, path))
            .timeout(CALL)
            .header("API-Key", user.api_key.expose_secret())
            .json(&json!({"to": self.to, "body": "identity-sync smoke test"}));
        server_b::send(request, || format!("POST {path}")).await
    }

    async fn delete_user(&self, user_id: i64) -> anyhow::Result<()> {
        let deadline = Deadline::after(CLEAN_UP);
        loop {
            match self.b.delete_user(user_id).await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_not_found() => return Ok(()),
                Err(error) if deadline.pause(POLL).await => tracing::debug!("{error}"),
                Err(error) => bail!("the user {user_id} is left behind: {error}"),
            }
        }
    }

    async fn retry<T, F>(
        &self,
        worth_it: impl Fn(&CallError) -> bool,
        mut call: impl FnMut() -> F,
    ) -> Result<T, CallError>
    where
        F: Future<Output = Result<T, CallError>>,
    {
        let mut said = Said::default();
        loop {
            match call().await {
                Ok(value) => return Ok(value),
                Err(error) if worth_it(&error) && self.deadline.pause(POLL).await => {
                    said.once(&error.to_string());
                }
                Err(error) => return Err(error),
            }
        }
    }
}
