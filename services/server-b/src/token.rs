//! A secret that a caller presents.

use std::fmt;

use axum::http::{HeaderMap, header};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

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
