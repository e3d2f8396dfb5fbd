//! API keys as they appear on the wire, and the digests that stand for them.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};

const DIGEST_PREFIX: &str = "sha256:";

/// SHA-256 of an API key, written `sha256:<64 hex digits>`.
///
/// Keys are high-entropy, so a plain hash is enough to make them unrecoverable.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyDigest([u8; 32]);

/// The first 16 bytes of a [`KeyDigest`]: what replicas look keys up by.
pub type ShortDigest = [u8; 16];

/// A text that should have been `sha256:<64 hex digits>`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a key digest is written sha256:<64 hex digits>")]
pub struct InvalidKeyDigest;

impl KeyDigest {
    /// The digest of a key as a caller presents it.
    #[must_use]
    pub fn of(key: &str) -> Self {
        Self(Sha256::digest(key.as_bytes()).into())
    }

    /// From the stored bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The stored bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// What replicas look keys up by.
    #[must_use]
    pub fn short(&self) -> ShortDigest {
        let mut short = [0; 16];
        short.copy_from_slice(&self.0[..16]);
        short
    }
}

impl fmt::Display for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{DIGEST_PREFIX}{}", hex::encode(self.0))
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{DIGEST_PREFIX}{}…", hex::encode(&self.0[..4]))
    }
}

impl std::str::FromStr for KeyDigest {
    type Err = InvalidKeyDigest;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        let digits = text.strip_prefix(DIGEST_PREFIX).ok_or(InvalidKeyDigest)?;
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| InvalidKeyDigest)?;
        Ok(Self(bytes))
    }
}

impl Serialize for KeyDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = KeyDigest;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("sha256:<64 hex digits>")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<KeyDigest, E> {
                // The text is left out of the error: it may be a key in the wrong place.
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

/// The wire's `api_key`: the key itself, or in `digest` mode its [`KeyDigest`]. `Debug` shows neither.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum ApiKey {
    /// The key as callers present it.
    Plain(String),
    /// Its digest.
    Digest(KeyDigest),
}

impl ApiKey {
    /// The digest, whichever form the wire carried.
    #[must_use]
    pub fn digest(&self) -> KeyDigest {
        match self {
            Self::Plain(key) => KeyDigest::of(key),
            Self::Digest(digest) => *digest,
        }
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

impl Serialize for ApiKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Plain(key) => serializer.serialize_str(key),
            Self::Digest(digest) => digest.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for ApiKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = ApiKey;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an API key or sha256:<64 hex digits>")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ApiKey, E> {
                if text.starts_with(DIGEST_PREFIX) {
                    text.parse().map(ApiKey::Digest).map_err(E::custom)
                } else {
                    Ok(ApiKey::Plain(text.to_owned()))
                }
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}
