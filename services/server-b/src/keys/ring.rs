//! The keys that seal API keys in the database.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, ValueEnum};
use secrecy::{ExposeSecret, SecretString};

/// Keeps a ciphertext of another use of the same key from being opened as an API key.
const CONTEXT: &[u8] = b"identity-sync api_keys.sealed v1";
/// What a bare key, without `<key-id>:`, is known by.
const BARE_KEY_ID: u8 = 1;
/// Bytes of a sealing key.
const KEY_BYTES: usize = 32;
const HOW_TO_MAKE_ONE: &str = "make one with `openssl rand -base64 32`";

/// What the wire's `api_key` carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ApiKeyMode {
    /// The key, as the requirement's payload has it; the database keeps it sealed
    Plain,
    /// Its SHA-256 as `sha256:<hex>`; no key is stored at all
    Digest,
}

/// How API keys are stored and sent.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "API keys")]
pub struct KeyArgs {
    /// What `api_key` carries in config events
    #[arg(
        long,
        env = "API_KEY_MODE",
        default_value = "plain",
        value_name = "MODE"
    )]
    pub api_key_mode: ApiKeyMode,

    /// File with the keys that seal API keys: lines `<key-id>:<base64 of 32 bytes>`, the first seals,
    /// all open; or one bare base64 key, whose id is 1. Needed in plain mode
    #[arg(long, env = "KEY_SEALING_KEY_FILE", value_name = "FILE")]
    pub key_sealing_key_file: Option<PathBuf>,

    /// The same as a text, for where no file can be mounted
    #[arg(
        long,
        env = "KEY_SEALING_KEY",
        hide_env_values = true,
        value_name = "KEY"
    )]
    pub key_sealing_key: Option<SecretString>,
}

/// Why a sealed API key could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A sealing key was retired too early, or the wrong file is mounted.
    #[error("the API key is sealed with key id {0}, which KEY_SEALING_KEY_FILE does not hold")]
    UnknownKeyId(u8),
    /// Too short to be a sealed key.
    #[error("the sealed API key is cut off")]
    Truncated,
    /// The key id is known, the key is another, or the row was tampered with.
    #[error("the sealed API key does not open with its sealing key")]
    Forged,
}

/// The sealing keys and the mode. Cheap to clone; `Debug` shows no key.
#[derive(Clone)]
pub struct KeyRing {
    mode: ApiKeyMode,
    /// The first seals, all open.
    keys: Arc<[(u8, RandomizedNonceKey)]>,
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<u8> = self.keys.iter().map(|(id, _)| *id).collect();
        f.debug_struct("KeyRing")
            .field("mode", &self.mode)
            .field("key_ids", &ids)
            .finish()
    }
}

impl KeyRing {
    /// Reads the sealing keys.
    ///
    /// # Errors
    /// If plain mode has none, or one is not written as it should be. Never quotes a key.
    pub fn from_args(args: &KeyArgs) -> anyhow::Result<Self> {
        let file = args.key_sealing_key_file.as_deref().filter(not_empty);
        let inline = args
            .key_sealing_key
            .as_ref()
            .map(ExposeSecret::expose_secret);
        let keys = match (file, inline.filter(|text| !text.trim().is_empty())) {
            (Some(_), Some(_)) => {
                bail!("KEY_SEALING_KEY_FILE and KEY_SEALING_KEY are both set: set one")
            }
            (Some(path), None) => {
                let text = std::fs::read_to_string(path).with_context(|| {
                    format!("KEY_SEALING_KEY_FILE: cannot read {}", path.display())
                })?;
                parse_keys(&text).with_context(|| {
                    format!("KEY_SEALING_KEY_FILE: {} is not usable", path.display())
                })?
            }
            (None, Some(text)) => parse_keys(text).context("KEY_SEALING_KEY is not usable")?,
            (None, None) => Vec::new(),
        };
        if args.api_key_mode == ApiKeyMode::Plain && keys.is_empty() {
            bail!(
                "KEY_SEALING_KEY_FILE (or KEY_SEALING_KEY) is not set: API_KEY_MODE=plain stores API keys \
                 sealed with it; {HOW_TO_MAKE_ONE}"
            );
        }
        Ok(Self {
            mode: args.api_key_mode,
            keys: keys.into(),
        })
    }

    /// What the wire's `api_key` carries.
    #[must_use]
    pub fn mode(&self) -> ApiKeyMode {
        self.mode
    }

    /// Seals an API key with the first sealing key; `None` in digest mode, which stores none.
    ///
    /// The result is the key id (1 byte), the nonce (12), the ciphertext and the tag (16).
    ///
    /// # Panics
    /// If AES-GCM refuses to seal, which it does only for texts of gigabytes.
    #[must_use]
    pub fn seal(&self, key: &str) -> Option<Vec<u8>> {
        if self.mode == ApiKeyMode::Digest {
            return None;
        }
        let (id, sealing) = self.keys.first()?;
        let mut text = key.as_bytes().to_vec();
        let nonce = sealing
            .seal_in_place_append_tag(Aad::from(CONTEXT), &mut text)
            .expect("AES-GCM seals any text as short as a key");
        let mut sealed = Vec::with_capacity(1 + NONCE_LEN + text.len());
        sealed.push(*id);
        sealed.extend_from_slice(nonce.as_ref());
        sealed.append(&mut text);
        Some(sealed)
    }

    /// The id of the key that seals; `None` in digest mode, which seals nothing.
    #[must_use]
    pub fn sealing_key_id(&self) -> Option<u8> {
        let (id, _) = self.keys.first()?;
        (self.mode == ApiKeyMode::Plain).then_some(*id)
    }

    /// Opens what [`Self::seal`] sealed, in either mode.
    pub fn open(&self, sealed: &[u8]) -> Result<SecretString, KeyError> {
        let (id, rest) = sealed.split_first().ok_or(KeyError::Truncated)?;
        let (nonce, text) = rest
            .split_first_chunk::<NONCE_LEN>()
            .ok_or(KeyError::Truncated)?;
        let (_, key) = self
            .keys
            .iter()
            .find(|(known, _)| known == id)
            .ok_or(KeyError::UnknownKeyId(*id))?;
        let mut text = text.to_vec();
        let opened = key
            .open_in_place(
                Nonce::assume_unique_for_key(*nonce),
                Aad::from(CONTEXT),
                &mut text,
            )
            .map_err(|_| KeyError::Forged)?;
        let opened = std::str::from_utf8(opened).map_err(|_| KeyError::Forged)?;
        Ok(opened.into())
    }
}

fn not_empty(path: &&Path) -> bool {
    !path.as_os_str().is_empty()
}

/// Lines `<key-id>:<base64>`, or one line that is only base64. Blank lines and `#` comments are skipped.
fn parse_keys(text: &str) -> anyhow::Result<Vec<(u8, RandomizedNonceKey)>> {
    let mut keys: Vec<(u8, RandomizedNonceKey)> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let number = index + 1;
        let (id, key) = parse_line(line).with_context(|| format!("line {number}"))?;
        ensure!(
            keys.iter().all(|(known, _)| *known != id),
            "line {number}: key id {id} appears twice"
        );
        keys.push((id, key));
    }
    ensure!(!keys.is_empty(), "it holds no key; {HOW_TO_MAKE_ONE}");
    Ok(keys)
}

fn parse_line(line: &str) -> anyhow::Result<(u8, RandomizedNonceKey)> {
    let (id, encoded) = match line.split_once(':') {
        None => (BARE_KEY_ID, line),
        Some((id, encoded)) => {
            let id = id.trim().parse().ok().filter(|id| *id > 0);
            (
                id.context("the key id before the colon is a number from 1 to 255")?,
                encoded.trim(),
            )
        }
    };
    // The decoder's error would quote a character of the key.
    let bytes = STANDARD
        .decode(encoded)
        .ok()
        .filter(|bytes| bytes.len() == KEY_BYTES)
        .with_context(|| format!("the key is not the base64 of 32 bytes; {HOW_TO_MAKE_ONE}"))?;
    let key = RandomizedNonceKey::new(&AES_256_GCM, &bytes)
        .map_err(|_| anyhow::anyhow!("AES-256-GCM refused the key"))?;
    Ok((id, key))
}
