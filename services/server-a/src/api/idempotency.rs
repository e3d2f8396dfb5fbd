//! `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header): the same SMS however often it is asked for.
//!
//! The `message_id` is derived from user and key, so every replica gives the same without any shared state, and server B keeps
//! one row. That the content is the same each replica can check only against what it remembers itself; server B counts in
//! the row what it sees of others.

use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use moka::ops::compute::Op;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use service_runtime::problem::Problem;
use sha2::{Digest, Sha256};
use uuid::Uuid;
use wire_contract::{UserId, idempotent_message_id};

use super::problems::IDEMPOTENCY_CONFLICT;

/// The header.
pub const HEADER: &str = "idempotency-key";
/// Characters of a key at most.
pub const MAX_KEY: usize = 255;
/// Requests remembered at most: some 15 MiB. Those not used for longest fall out first.
const REMEMBERED: u64 = 65_536;
/// How long one is remembered; server B keeps the row for longer.
const REMEMBERED_FOR: Duration = Duration::from_hours(24);

const MUST_BE: &str = "must be 1 to 255 visible ASCII characters, as they are or as a quoted string (RFC 9651, 3.3.3), in one \
     header";

/// The key of a request, if it has one. Not `Debug`: it is the client's.
#[derive(PartialEq, Eq)]
pub struct IdempotencyKey(Option<String>);

impl IdempotencyKey {
    /// The `message_id` of this user's request: derived from the key, random without one.
    pub fn message_id(&self, user_id: UserId) -> Uuid {
        let derive = |key: &String| idempotent_message_id(user_id, key);
        self.0.as_ref().map_or_else(Uuid::now_v7, derive)
    }

    /// Whether the request has one.
    pub fn is_given(&self) -> bool {
        self.0.is_some()
    }
}

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let mut values = parts.headers.get_all(HEADER).iter();
        let Some(value) = values.next() else {
            return Ok(Self(None));
        };
        let key = value.to_str().ok().and_then(parse);
        match key {
            Some(key) if values.next().is_none() => Ok(Self(Some(key))),
            _ => Err(Problem::invalid_field("Idempotency-Key", MUST_BE)),
        }
    }
}

/// A quoted string, or the characters as they are; both forms of one key are the same key.
fn parse(value: &str) -> Option<String> {
    let value = value.trim_matches([' ', '\t']);
    let key = match value.strip_prefix('"') {
        Some(quoted) => unquote(quoted)?,
        None => value.to_owned(),
    };
    let visible = key.bytes().all(|b| b.is_ascii_graphic());
    (visible && (1..=MAX_KEY).contains(&key.len())).then_some(key)
}

/// What stands before the closing quote, which must be the last character.
fn unquote(quoted: &str) -> Option<String> {
    let inner = quoted.strip_suffix('"')?;
    let mut key = String::with_capacity(inner.len());
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => key.push(characters.next().filter(|it| ['"', '\\'].contains(it))?),
            '"' => return None,
            _ => key.push(character),
        }
    }
    Some(key)
}

/// What an SMS asks for, as a hash: half a SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHash([u8; 16]);

impl RequestHash {
    /// Of fields that are normalised already. Replicas of different versions must agree, so neither the order nor the form of
    /// these may change; a field to come is appended only where it is given.
    pub fn of(fields: &[(&str, Option<&str>)]) -> Self {
        let mut hash = Sha256::new();
        for (name, value) in fields {
            let Some(value) = value else { continue };
            for part in [name.as_bytes(), value.as_bytes()] {
                hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
                hash.update(part);
            }
        }
        let mut half = [0; 16];
        half.copy_from_slice(&hash.finalize()[..16]);
        Self(half)
    }

    /// As the envelope carries it.
    pub fn to_hex(self) -> String {
        hex::encode(self.0)
    }
}

/// Requests with a key that this replica has taken lately. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Remembered {
    requests: Cache<Uuid, Request>,
}

#[derive(Debug, Clone, Copy)]
struct Request {
    hash: RequestHash,
    /// It was queued, or may have been: another try that fails takes nothing back.
    stays: bool,
}

impl Default for Remembered {
    fn default() -> Self {
        let requests = Cache::builder()
            .max_capacity(REMEMBERED)
            .time_to_live(REMEMBERED_FOR)
            // moka's own choice would rather not take in what is new.
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Self { requests }
    }
}

impl Remembered {
    /// Remembers a request; says whether it is the first that is known here.
    ///
    /// # Errors
    /// 409 if another content is known under this id.
    pub fn note(&self, message_id: Uuid, hash: RequestHash) -> Result<bool, Problem> {
        let request = Request { hash, stays: false };
        let entry = self.requests.entry(message_id).or_insert(request);
        if entry.value().hash == hash {
            return Ok(entry.is_fresh());
        }
        let detail = "this Idempotency-Key was used for another content";
        Err(Problem::of(&IDEMPOTENCY_CONFLICT, detail).with_message_id(message_id))
    }

    /// The request was queued, or may have been: what is remembered of it stays.
    pub fn stays(&self, message_id: Uuid, hash: RequestHash) {
        let entry = self.requests.entry(message_id);
        entry.and_compute_with(|known| match known {
            Some(known) if known.value().stays => Op::Nop,
            _ => Op::Put(Request { hash, stays: true }),
        });
    }

    /// Takes back a request of which nothing was queued, unless a repeat of it was.
    pub fn forget(&self, message_id: Uuid) {
        let entry = self.requests.entry(message_id);
        entry.and_compute_with(|known| match known {
            Some(known) if !known.value().stays => Op::Remove,
            _ => Op::Nop,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_same_quoted_or_not() {
        let longest = "k".repeat(255);
        for (value, expected) in [
            (
                "8e03978e-40d5-43dd-bc93-6894a57f9324",
                Some("8e03978e-40d5-43dd-bc93-6894a57f9324"),
            ),
            (r#""8e03978e-40d5""#, Some("8e03978e-40d5")),
            (" k ", Some("k")),
            (r#""a\"b\\c""#, Some(r#"a"b\c"#)),
            (r#"a"b\c"#, Some(r#"a"b\c"#)),
            (&longest, Some(longest.as_str())),
            ("", None),
            (r#""""#, None),
            ("two words", None),
            (r#""two words""#, None),
            (r#""open"#, None),
            (r#"""#, None),
            (r#""a"b""#, None),
            (r#""a\b""#, None),
            (r#""a\"#, None),
            (r#""a";p=1"#, None),
            ("\u{7f}", None),
            (&format!("{longest}k"), None),
        ] {
            assert_eq!(parse(value).as_deref(), expected, "{value}");
        }
    }

    #[test]
    fn the_id_is_derived_from_user_and_key_and_random_without_one() {
        let key = IdempotencyKey(Some("k".to_owned()));
        assert_eq!(key.message_id(1), idempotent_message_id(1, "k"));
        assert_ne!(key.message_id(1), key.message_id(2));
        let none = IdempotencyKey(None);
        assert_ne!(none.message_id(1), none.message_id(1));
    }

    #[test]
    fn a_hash_tells_fields_apart_and_does_not_change_between_versions() {
        let of = |fields: &[(&str, Option<&str>)]| RequestHash::of(fields).to_hex();
        let hash = of(&[
            ("to", Some("+14155550123")),
            ("from", None),
            ("body", Some("hi")),
        ]);
        assert_eq!(hash, PINNED);
        assert_ne!(
            hash,
            of(&[
                ("to", Some("+14155550123")),
                ("from", Some("")),
                ("body", Some("hi"))
            ])
        );
        assert_ne!(of(&[("a", Some("bc"))]), of(&[("ab", Some("c"))]));
    }

    /// Replicas of another version give the same.
    const PINNED: &str = "16cf58df579049fdfc80bb3c22842e79";

    #[test]
    fn the_first_content_under_a_key_is_the_one() {
        let remembered = Remembered::default();
        let (id, first) = (Uuid::now_v7(), RequestHash::of(&[("body", Some("one"))]));
        let other = RequestHash::of(&[("body", Some("two"))]);
        assert!(remembered.note(id, first).expect("new"));
        assert!(!remembered.note(id, first).expect("the same"));
        let conflict = remembered.note(id, other).expect_err("another content");
        assert_eq!(conflict.code(), "idempotency_conflict");
        remembered.forget(id);
        assert!(remembered.note(id, other).expect("new again"));
    }

    #[test]
    fn a_first_try_that_fails_does_not_take_back_a_repeat_that_was_queued() {
        let remembered = Remembered::default();
        let (id, hash) = (Uuid::now_v7(), RequestHash::of(&[("body", Some("one"))]));
        assert!(remembered.note(id, hash).expect("new"));
        assert!(!remembered.note(id, hash).expect("the same"));
        remembered.stays(id, hash);
        remembered.forget(id);
        assert!(!remembered.note(id, hash).expect("still known"));

        // Nor does one that has failed before the repeat was queued.
        let id = Uuid::now_v7();
        assert!(remembered.note(id, hash).expect("new"));
        remembered.forget(id);
        remembered.stays(id, hash);
        remembered.forget(id);
        assert!(!remembered.note(id, hash).expect("still known"));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_oldest_fall_out() {
        let remembered = Remembered::default();
        let hash = RequestHash::of(&[]);
        let id = |number: u64| Uuid::from_u128(u128::from(number));
        for number in 0..2 * REMEMBERED {
            assert!(remembered.note(id(number), hash).expect("new"));
            // Often asked for, but long ago.
            if number < 100 {
                for _ in 0..10 {
                    assert!(!remembered.note(id(number), hash).expect("the same"));
                }
            }
        }
        remembered.requests.run_pending_tasks();
        assert!(remembered.requests.entry_count() <= REMEMBERED);
        for number in [0, 99, REMEMBERED / 2] {
            assert!(!remembered.requests.contains_key(&id(number)), "{number}");
        }
        for number in (2 * REMEMBERED - REMEMBERED / 2)..2 * REMEMBERED {
            assert!(remembered.requests.contains_key(&id(number)), "{number}");
        }
    }
}
