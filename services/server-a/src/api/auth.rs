//! Authentication from the user cache.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;
use service_runtime::problem::Problem;
use time::OffsetDateTime;
use wire_contract::{Admission, KeyDigest, UserId};

use super::problems::{CACHE_NOT_READY, RATE_LIMITED, USER_INACTIVE};
use crate::cache::{ClientConfig, UserCache, Username};
use crate::rates::UserRates;

/// The header that carries the key (requirement 2.4).
const API_KEY: &str = "api-key";
/// Seconds after which a client may ask again while the cache does not serve.
const CACHE_RETRY_SECS: u32 = 2;

/// The authenticated caller (requirements 2.1 and 2.4).
#[derive(Debug, Clone)]
pub struct ClientContext {
    /// Stable primary key of server B.
    pub user_id: UserId,
    /// Unique name.
    pub username: Username,
    /// Whether sends are accepted; always so behind [`get_client_context`].
    pub is_active: bool,
    /// SMS segments a UTC day.
    pub daily_quota: i32,
    /// Of the key that it presented.
    pub key_digest: KeyDigest,
    /// Which state of the cache let the caller in.
    pub admission: Admission,
}

/// Middleware: looks the caller's key up in the cache and puts its [`ClientContext`] into the
/// request, before anything of the body is read.
///
/// # Errors
/// 503 while the cache does not serve, 401 for a missing or unknown key, 403 for an inactive user, 429 for one that asks too
/// often.
pub async fn get_client_context(
    State(cache): State<UserCache>,
    State(rates): State<UserRates>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    // Taken before the look-up: the receipt may name an older state than the one that let the
    // caller in, never a newer one.
    let admission = cache.admission().map_err(|reason| {
        Problem::of(&CACHE_NOT_READY, reason.to_string()).with_retry_after(CACHE_RETRY_SECS)
    })?;
    let key = presented_key(request.headers()).ok_or_else(|| {
        Problem::unauthorized("no API key: send it in one header API-Key, or as a Bearer token")
    })?;
    let look_up = |digest: &KeyDigest| cache.look_up(digest, now_micros());
    let client = authenticate(key, admission, KeyDigest::of, look_up)?;
    rates.check(client.user_id).map_err(|after_secs| {
        let detail = "you have made too many requests within a short time";
        Problem::of(&RATE_LIMITED, detail).with_retry_after(after_secs)
    })?;
    request.extensions_mut().insert(client);
    Ok(next.run(request).await)
}

/// The same work whatever becomes of the key: one hash and one look-up, which the types say, so that the time tells nothing
/// about keys that are known.
fn authenticate(
    key: &str,
    admission: Admission,
    hash: impl FnOnce(&str) -> KeyDigest,
    look_up: impl FnOnce(&KeyDigest) -> Option<ClientConfig>,
) -> Result<ClientContext, Problem> {
    let key_digest = hash(key);
    let config = look_up(&key_digest)
        .ok_or_else(|| Problem::unauthorized("the API key is not known or no longer accepted"))?;
    if !config.is_active {
        let detail = "the user of this API key is not active";
        return Err(Problem::of(&USER_INACTIVE, detail));
    }
    Ok(ClientContext {
        user_id: config.user_id,
        username: config.username,
        is_active: config.is_active,
        daily_quota: config.daily_quota,
        key_digest,
        admission,
    })
}

/// The key in the one `API-Key`, or else in `Authorization: Bearer` (RFC 6750, 2.1; the scheme's name is
/// case-insensitive by RFC 9110, 11.1).
fn presented_key(headers: &HeaderMap) -> Option<&str> {
    let mut keys = headers.get_all(API_KEY).iter();
    let key = if let Some(value) = keys.next() {
        // Of two, a proxy before us may have looked at the other.
        keys.next().is_none().then(|| value.to_str().ok())??
    } else {
        let credentials = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        let (scheme, token) = credentials.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token)?
    };
    Some(key.trim()).filter(|key| !key.is_empty())
}

fn now_micros() -> i64 {
    i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "auth_tests.rs"]
mod tests;
