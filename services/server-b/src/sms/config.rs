//! Configuration of the SMS path.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use secrecy::SecretString;

use super::providers::Providers;
use crate::token::Token;

/// How SMS are processed.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "SMS")]
pub struct SmsArgs {
    /// YAML or JSON file with the SMS providers and the routes to them; without one every SMS goes to the log
    #[arg(long, env = "PROVIDERS_FILE", value_name = "FILE")]
    pub providers_file: Option<PathBuf>,

    /// Seconds after its submission in which an SMS must be handed over, where its sender says nothing
    #[arg(long, env = "SMS_VALIDITY_SECONDS", default_value_t = 86_400, value_name = "SECONDS",
          value_parser = clap::value_parser!(u32).range(1..=2_592_000))]
    pub sms_validity_seconds: u32,

    /// Days after which SMS at their end are deleted, and with them the memory of their idempotency keys; 0 keeps them
    #[arg(long, env = "SMS_RETENTION_DAYS", default_value_t = 30, value_name = "DAYS",
          value_parser = clap::value_parser!(u16).range(0..=3650))]
    pub sms_retention_days: u16,

    /// Bearer token with which server A asks what became of an SMS, at least 16 characters; without one (nor a file)
    /// server B does not answer
    #[arg(
        long,
        env = "SERVICE_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN"
    )]
    pub service_token: Option<SecretString>,

    /// File that holds the bearer token of server A
    #[arg(long, env = "SERVICE_TOKEN_FILE", value_name = "FILE")]
    pub service_token_file: Option<PathBuf>,
}

impl SmsArgs {
    /// The providers that the file names.
    ///
    /// # Errors
    /// If the file is wrong, which names the field.
    pub fn providers(&self) -> anyhow::Result<Arc<Providers>> {
        let file = self.providers_file.as_ref();
        let providers = match file.filter(|path| !path.as_os_str().is_empty()) {
            Some(path) => Providers::from_file(path)?,
            None => Providers::log(),
        };
        Ok(Arc::new(providers))
    }

    /// How long an SMS may wait that says nothing of it.
    #[must_use]
    pub fn validity(&self) -> Duration {
        Duration::from_secs(self.sms_validity_seconds.into())
    }

    /// Reads the token of server A.
    ///
    /// # Errors
    /// If there are two, it cannot be read, or it is too short to be a secret.
    pub fn service_token(&self) -> anyhow::Result<Option<Token>> {
        let file = self.service_token_file.as_deref();
        Token::configured("SERVICE_TOKEN", self.service_token.as_ref(), file)
    }
}
