//! A secret that a caller presents.

use std::fmt;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use axum::http::{HeaderMap, header};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Characters of a configured token at least.
const MIN_LENGTH: usize = 16;

/// A secret, as its SHA-256. `Debug` shows nothing.
#[derive(Clone)]
pub struct Token([u8; 32]);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    /// What must be presented.
    #[must_use]
    pub fn new(secret: &str) -> Self {
        Self(hash(secret))
    }

    /// The token of the variable `name`, or of the file that `<name>_FILE` names; `None` if there is neither.
    ///
    /// # Errors
    /// If there are two, it cannot be read, or it is too short to be a secret: one that names the variable.
    pub fn configured(
        name: &str,
        inline: Option<&SecretString>,
        file: Option<&Path>,
    ) -> anyhow::Result<Option<Self>> {
        let inline = inline.filter(|token| !token.expose_secret().is_empty());
        let file = file.filter(|path| !path.as_os_str().is_empty());
        let token = match (inline, file) {
            (Some(_), Some(_)) => bail!("{name} and {name}_FILE are both set: set one"),
            (Some(token), None) => token.clone(),
            (None, Some(path)) => std::fs::read_to_string(path)
                .with_context(|| format!("{name}_FILE: cannot read {}", path.display()))?
                .into(),
            (None, None) => return Ok(None),
        };
        // Files end with a newline that nobody means.
        let token = token.expose_secret().trim();
        ensure!(
            token.chars().count() >= MIN_LENGTH,
            "{name} is too short: it needs at least {MIN_LENGTH} characters"
        );
        Ok(Some(Self::new(token)))
    }

    /// Whether a caller presented it. Hashed first: equal lengths, so that the time taken tells nothing.
    #[must_use]
    pub fn matches(&self, presented: &str) -> bool {
        hash(presented).ct_eq(&self.0).into()
    }
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// The token of `Authorization: Bearer`. The scheme's name is case-insensitive (RFC 9110, 11.1).
#[must_use]
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("Bearer")
        .then_some(token.trim())
}
