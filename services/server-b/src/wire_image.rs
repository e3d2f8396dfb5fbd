//! A user with its keys as the outbox and the users table hold it, and its way onto the wire.

use anyhow::Context;
use secrecy::ExposeSecret;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sqlx::types::Json;
use time::OffsetDateTime;
use wire_contract::{ApiKey, KeyDigest, PreviousKey, UserId, UserRecord, UserSetDigest};

use crate::keys::{ApiKeyMode, KeyRing};

/// What the trigger writes into the outbox (`users_after_write()` in the migrations).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireImage {
    /// Stable primary key.
    pub user_id: UserId,
    /// Unique name.
    pub username: String,
    /// Whether sends are accepted.
    pub is_active: bool,
    /// SMS segments a UTC day.
    pub daily_quota: i32,
    /// Version of this state.
    pub version: i64,
    /// Current and previous keys.
    pub keys: Vec<KeyImage>,
}

/// A row of `api_keys`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyImage {
    /// SHA-256 of the key, hex.
    #[serde(with = "hex::serde")]
    pub digest: [u8; 32],
    /// The key sealed for the broadcast, hex; absent in `digest` mode.
    #[serde(
        serialize_with = "optional_to_hex",
        deserialize_with = "optional_from_hex"
    )]
    pub sealed: Option<Vec<u8>>,
    /// Microseconds since the Unix epoch; absent for the current key.
    pub expires_at_us: Option<i64>,
}

/// How keys are written on the wire.
#[derive(Debug, Clone, Copy)]
pub enum KeyForm<'a> {
    /// As the key itself (the requirement's payload) where it is kept and the mode is `plain`, else as its digest.
    Opened(&'a KeyRing),
    /// Always as digests.
    Digest,
}

/// A row of the read behind snapshots, full syncs and audits.
#[derive(sqlx::FromRow)]
pub struct UserRow {
    user_id: i64,
    username: String,
    is_active: bool,
    daily_quota: i32,
    version: i64,
    digest: Option<Vec<u8>>,
    sealed: Option<Vec<u8>>,
    previous: Option<Json<Vec<KeyImage>>>,
}

/// Every user from the tables themselves, not from what triggers keep beside them.
pub const ALL_USERS: &str = "
    SELECT u.user_id, u.username, u.is_active, u.daily_quota, u.version, k.digest, k.sealed, p.previous
    FROM users u
    LEFT JOIN api_keys k ON k.user_id = u.user_id AND k.expires_at IS NULL
    LEFT JOIN (
        SELECT user_id, jsonb_agg(jsonb_build_object(
            'digest', encode(digest, 'hex'),
            'sealed', NULL,
            'expires_at_us', (extract(epoch FROM expires_at) * 1000000)::bigint
        ) ORDER BY expires_at, digest) AS previous
        FROM api_keys WHERE expires_at IS NOT NULL GROUP BY user_id
    ) p ON p.user_id = u.user_id";

impl TryFrom<UserRow> for WireImage {
    type Error = anyhow::Error;

    fn try_from(row: UserRow) -> anyhow::Result<Self> {
        let mut keys = Vec::new();
        if let Some(digest) = row.digest {
            keys.push(KeyImage {
                digest: digest.try_into().map_err(|_| {
                    anyhow::anyhow!("digest of user {} is not 32 bytes", row.user_id)
                })?,
                sealed: row.sealed,
                expires_at_us: None,
            });
        }
        keys.extend(row.previous.map(|Json(keys)| keys).unwrap_or_default());
        Ok(Self {
            user_id: row.user_id,
            username: row.username,
            is_active: row.is_active,
            daily_quota: row.daily_quota,
            version: row.version,
            keys,
        })
    }
}

impl WireImage {
    /// As the wire carries it.
    pub fn record(&self, form: KeyForm<'_>) -> anyhow::Result<UserRecord> {
        let previous_keys = self
            .keys
            .iter()
            .filter_map(|key| Some((key, key.expires_at_us?)))
            .map(|(key, micros)| {
                let expires_at =
                    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000)
                        .with_context(|| format!("expiry of a key of user {}", self.user_id))?;
                Ok(PreviousKey {
                    digest: KeyDigest::from_bytes(key.digest),
                    expires_at,
                })
            })
            .collect::<anyhow::Result<_>>()?;
        Ok(UserRecord {
            user_id: self.user_id,
            api_key: self.api_key(form),
            username: self.username.clone(),
            is_active: self.is_active,
            daily_quota: self.daily_quota,
            previous_keys,
            version: self.version,
        })
    }

    /// The current key as the wire carries it.
    #[must_use]
    pub fn api_key(&self, form: KeyForm<'_>) -> Option<ApiKey> {
        let key = self.keys.iter().find(|key| key.expires_at_us.is_none())?;
        let digest = ApiKey::Digest(KeyDigest::from_bytes(key.digest));
        let (KeyForm::Opened(ring), Some(sealed)) = (form, &key.sealed) else {
            return Some(digest);
        };
        // Keys that were sealed before the mode was changed stay where they are.
        if ring.mode() == ApiKeyMode::Digest {
            return Some(digest);
        }
        match ring.open(sealed) {
            // Sealing does not bind a key to its row: a row that was tampered with must not announce another key.
            Ok(opened)
                if KeyDigest::of(opened.expose_secret()) == KeyDigest::from_bytes(key.digest) =>
            {
                Some(ApiKey::Plain(opened.expose_secret().to_owned()))
            }
            Ok(_) => {
                tracing::error!(
                    user_id = self.user_id,
                    "a sealed key is not the key of its row"
                );
                Some(digest)
            }
            Err(error) => {
                // Replicas take either form: better the digest than no event.
                tracing::error!(user_id = self.user_id, %error, "a sealed key cannot be opened");
                Some(digest)
            }
        }
    }

    /// Whether a change to `new` (`None`: deleted) takes a right away at once: a key with which this user could send until
    /// `now`, and cannot from then on. Microseconds since the Unix epoch.
    #[must_use]
    pub fn loses_a_right(&self, new: Option<&Self>, now: i64) -> bool {
        let lost = |key: &KeyImage| {
            self.may_send_with(&key.digest, now)
                && !new.is_some_and(|new| new.may_send_with(&key.digest, now))
        };
        self.keys.iter().any(lost)
    }

    fn may_send_with(&self, digest: &[u8; 32], now: i64) -> bool {
        let usable = |key: &KeyImage| key.expires_at_us.is_none_or(|at| at > now);
        self.is_active
            && self
                .keys
                .iter()
                .any(|key| key.digest == *digest && usable(key))
    }

    /// Its part of the digest over all users.
    #[must_use]
    pub fn digest(&self) -> UserSetDigest {
        let keys = self.keys.iter();
        UserSetDigest::of(
            self.user_id,
            self.version,
            &self.username,
            self.is_active,
            self.daily_quota,
            keys.map(|key| {
                let digest = KeyDigest::from_bytes(key.digest).short();
                (digest, key.expires_at_us)
            }),
        )
    }
}

#[expect(clippy::ref_option, reason = "the signature that serde asks for")]
fn optional_to_hex<S: Serializer>(bytes: &Option<Vec<u8>>, to: S) -> Result<S::Ok, S::Error> {
    bytes.as_ref().map(hex::encode).serialize(to)
}

fn optional_from_hex<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<u8>>, D::Error> {
    Option::<String>::deserialize(from)?
        .map(|text| hex::decode(text).map_err(de::Error::custom))
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000;

    fn user(is_active: bool, keys: &[(u8, Option<i64>)]) -> WireImage {
        let key = |(digest, expires_at_us): &(u8, Option<i64>)| KeyImage {
            digest: [*digest; 32],
            sealed: None,
            expires_at_us: *expires_at_us,
        };
        WireImage {
            user_id: 1,
            username: "alice".to_owned(),
            is_active,
            daily_quota: 1,
            version: 1,
            keys: keys.iter().map(key).collect(),
        }
    }

    #[test]
    fn a_right_is_lost_by_deletion_deactivation_and_a_key_that_stops_at_once() {
        let before = user(true, &[(1, None)]);
        for after in [
            None,
            Some(user(false, &[(1, None)])),
            Some(user(true, &[(2, None)])),
            Some(user(true, &[(2, None), (1, Some(NOW))])),
        ] {
            assert!(before.loses_a_right(after.as_ref(), NOW));
        }
    }

    #[test]
    fn no_right_is_lost_by_an_overlap_by_other_changes_nor_by_whoever_had_none() {
        let before = user(true, &[(1, None), (3, Some(NOW))]);
        for after in [
            user(true, &[(1, None)]),
            user(true, &[(2, None), (1, Some(NOW + 1))]),
        ] {
            assert!(!before.loses_a_right(Some(&after), NOW));
        }
        for nobody in [
            user(false, &[(1, None)]),
            user(true, &[(1, Some(NOW))]),
            user(true, &[]),
        ] {
            assert!(!nobody.loses_a_right(None, NOW));
        }
    }
}
