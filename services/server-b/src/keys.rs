//! API keys: made, checked, described by a prefix, and sealed for the broadcast.

mod ring;
#[cfg(test)]
mod tests;

use std::fmt;

use crc::{CRC_32_ISO_HDLC, Crc};
use rand::TryRngCore;
use rand::distr::{Alphanumeric, SampleString};
use rand::rngs::OsRng;
use secrecy::{ExposeSecret, SecretString};
use wire_contract::KeyDigest;

pub use ring::{ApiKeyMode, KeyArgs, KeyError, KeyRing};

/// What every generated key begins with, so that scanners for leaked secrets can find one.
pub const KEY_PREFIX: &str = "isk_";
/// Base62 characters drawn: 178 bits.
const RANDOM_LENGTH: usize = 30;
/// Base62 characters that hold a CRC-32.
const CHECKSUM_LENGTH: usize = 6;
const CHECKSUM: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Characters of a generated key that are shown in lists.
const GENERATED_SHOWN: usize = 8;
/// Characters of an imported key that are shown at most; never more than a quarter of it.
const IMPORTED_SHOWN: usize = 4;
/// Imported keys, in characters.
const IMPORTED_LENGTH: std::ops::RangeInclusive<usize> = 8..=256;
/// The wire's `api_key` begins so in digest mode.
const RESERVED_PREFIX: &str = "sha256:";

/// Why a text cannot be an API key. Never quotes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// Too short or too long.
    #[error("an API key has 8 to 256 characters")]
    Length,
    /// A character that headers or CSV files would not carry safely.
    #[error("an API key consists of printable ASCII characters without spaces")]
    Characters,
    /// It would be read as a digest.
    #[error("an API key must not begin with `sha256:`")]
    Reserved,
    /// One that this server made, with a mistake in it.
    #[error("the API key begins with `isk_` but its checksum is wrong: it is mistyped or cut off")]
    Mistyped,
}

/// An API key that a caller will present. `Debug` shows nothing.
#[derive(Clone)]
pub struct NewKey(SecretString);

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NewKey(…)")
    }
}

impl NewKey {
    /// Draws a key from the operating system's random numbers.
    ///
    /// # Panics
    /// If the operating system has no random numbers: no key is better than a weak one.
    #[must_use]
    pub fn generate() -> Self {
        Self(draw(KEY_PREFIX))
    }

    /// Accepts a key that exists already.
    pub fn import(key: SecretString) -> Result<Self, InvalidKey> {
        let text = key.expose_secret();
        if !IMPORTED_LENGTH.contains(&text.chars().count()) {
            return Err(InvalidKey::Length);
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidKey::Characters);
        }
        if text.starts_with(RESERVED_PREFIX) {
            return Err(InvalidKey::Reserved);
        }
        if is_mistyped(text) {
            return Err(InvalidKey::Mistyped);
        }
        Ok(Self(key))
    }

    /// The key itself, to be shown once or sealed.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// What it is looked up by.
    #[must_use]
    pub fn digest(&self) -> KeyDigest {
        KeyDigest::of(self.expose())
    }

    /// The first characters, by which people tell keys apart: 8 of a generated key; of an imported
    /// one, which may be short, at most 4 and never more than a quarter.
    #[must_use]
    pub fn prefix(&self) -> &str {
        let key = self.expose();
        let shown = if key.starts_with(KEY_PREFIX) {
            GENERATED_SHOWN
        } else {
            IMPORTED_SHOWN.min(key.len() / 4)
        };
        key.get(..shown).unwrap_or_default()
    }
}

/// Whether the text claims to be a generated key, but is not one as it was made: every single wrong
/// or exchanged character is noticed.
#[must_use]
pub fn is_mistyped(key: &str) -> bool {
    key.starts_with(KEY_PREFIX) && !is_as_drawn(key, KEY_PREFIX)
}

/// A secret from the operating system's random numbers: the prefix, what was drawn, and its checksum.
///
/// # Panics
/// If the operating system has no random numbers.
pub(crate) fn draw(prefix: &str) -> SecretString {
    let random = Alphanumeric.sample_string(&mut OsRng.unwrap_err(), RANDOM_LENGTH);
    let body = format!("{prefix}{random}");
    let checksum = checksum(&body);
    format!("{body}{checksum}").into()
}

/// Whether [`draw`] may have made the text with that prefix.
pub(crate) fn is_as_drawn(text: &str, prefix: &str) -> bool {
    if !text.starts_with(prefix) || text.len() != prefix.len() + RANDOM_LENGTH + CHECKSUM_LENGTH {
        return false;
    }
    // Not on a character boundary: not base62 either.
    let parts = text.split_at_checked(text.len() - CHECKSUM_LENGTH);
    parts.is_some_and(|(body, written)| checksum(body) == written)
}

/// CRC-32 in base62, most significant digit first, as GitHub's tokens carry it.
fn checksum(body: &str) -> String {
    let mut rest = CHECKSUM.checksum(body.as_bytes());
    let mut digits = [b'0'; CHECKSUM_LENGTH];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[(rest % 62) as usize];
        rest /= 62;
    }
    digits.iter().map(|digit| char::from(*digit)).collect()
}
