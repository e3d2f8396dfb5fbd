//! `/admin/v1/users`.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::IntoResponse;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use service_runtime::problem::Problem;
use wire_contract::UserId;

use super::error::{ApiError, not_found};
use super::etag::{IfMatch, etag};
use super::json::{JsonBody, present};
use crate::keys::{KeyRing, NewKey};
use crate::users::{CreatedUser, MAX_PAGE, NewUser, User, UserChanges, UserPage, Users};

/// Users in a page where the query does not say.
const DEFAULT_PAGE: u16 = 100;

/// Texts, so that an error can name the parameter.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    cursor: Option<String>,
    limit: Option<String>,
    username: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateUser {
    username: String,
    #[serde(default, deserialize_with = "present")]
    is_active: Option<bool>,
    #[serde(default, deserialize_with = "present")]
    daily_quota: Option<i32>,
    /// Generated when absent.
    api_key: Option<SecretString>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PatchUser {
    #[serde(default, deserialize_with = "present")]
    username: Option<String>,
    #[serde(default, deserialize_with = "present")]
    is_active: Option<bool>,
    #[serde(default, deserialize_with = "present")]
    daily_quota: Option<i32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotateKey {
    /// Generated when absent.
    api_key: Option<SecretString>,
    /// How long the replaced key is still accepted.
    overlap_seconds: Option<u32>,
}

#[derive(Serialize)]
pub struct RotatedKey {
    user_id: UserId,
    api_key: String,
    version: i64,
}

/// An answer with the version of its user.
type Tagged<T> = ([(HeaderName, String); 1], Json<T>);

type UserIdPath = Result<Path<UserId>, PathRejection>;

pub async fn list(
    State(users): State<Users>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<UserPage>, ApiError> {
    let Query(query) = query.map_err(|error| {
        Problem::new(StatusCode::BAD_REQUEST, "invalid_query", error.body_text())
    })?;
    let cursor = parameter("cursor", query.cursor, "must be a next_cursor of this list")?;
    let must_be = format!("must be an integer from 1 to {MAX_PAGE}");
    let limit = parameter("limit", query.limit, &must_be)?;
    let page = users
        .list(
            cursor,
            limit.unwrap_or(DEFAULT_PAGE),
            query.username.as_deref(),
        )
        .await?;
    Ok(Json(page))
}

pub async fn create(
    State(users): State<Users>,
    State(keys): State<KeyRing>,
    JsonBody(body): JsonBody<CreateUser>,
) -> Result<impl IntoResponse + use<>, ApiError> {
    let api_key = given_or_generated(body.api_key)?;
    let new = NewUser {
        username: body.username,
        is_active: body.is_active.unwrap_or(NewUser::IS_ACTIVE),
        daily_quota: body.daily_quota.unwrap_or(NewUser::DAILY_QUOTA),
        api_key: api_key.clone(),
    };
    let user = users.create(&keys, new).await?;
    let tag = etag(&user);
    let location = [(
        header::LOCATION,
        format!("/admin/v1/users/{}", user.user_id),
    )];
    let created = CreatedUser::new(user, &api_key);
    Ok((StatusCode::CREATED, location, tag, Json(created)))
}

pub async fn get(
    State(users): State<Users>,
    user_id: UserIdPath,
) -> Result<Tagged<User>, ApiError> {
    let user = users.get(existing(&user_id)?).await?;
    Ok((etag(&user), Json(user)))
}

pub async fn update(
    State(users): State<Users>,
    user_id: UserIdPath,
    IfMatch(if_version): IfMatch,
    JsonBody(body): JsonBody<PatchUser>,
) -> Result<Tagged<User>, ApiError> {
    let changes = UserChanges {
        username: body.username,
        is_active: body.is_active,
        daily_quota: body.daily_quota,
    };
    let user = users
        .update(existing(&user_id)?, changes, if_version)
        .await?;
    Ok((etag(&user), Json(user)))
}

pub async fn delete(
    State(users): State<Users>,
    user_id: UserIdPath,
    IfMatch(if_version): IfMatch,
) -> Result<StatusCode, ApiError> {
    users.delete(existing(&user_id)?, if_version).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub async fn rotate_key(
    State(users): State<Users>,
    State(keys): State<KeyRing>,
    user_id: UserIdPath,
    IfMatch(if_version): IfMatch,
    JsonBody(body): JsonBody<RotateKey>,
) -> Result<Tagged<RotatedKey>, ApiError> {
    let api_key = given_or_generated(body.api_key)?;
    let overlap = body
        .overlap_seconds
        .map(|seconds| Duration::from_secs(seconds.into()));
    let user = users
        .rotate_key(
            &keys,
            existing(&user_id)?,
            api_key.clone(),
            overlap,
            if_version,
        )
        .await?;
    let rotated = RotatedKey {
        user_id: user.user_id,
        api_key: api_key.expose().to_owned(),
        version: user.version,
    };
    Ok((etag(&user), Json(rotated)))
}

fn given_or_generated(key: Option<SecretString>) -> Result<NewKey, ApiError> {
    Ok(key.map_or_else(|| Ok(NewKey::generate()), NewKey::import)?)
}

/// A path that is not a number names no user.
fn existing(user_id: &UserIdPath) -> Result<UserId, Problem> {
    match user_id {
        Ok(Path(user_id)) => Ok(*user_id),
        Err(_) => Err(not_found("user_not_found", "a user_id is an integer")),
    }
}

fn parameter<T: std::str::FromStr>(
    name: &str,
    text: Option<String>,
    must_be: &str,
) -> Result<Option<T>, Problem> {
    text.map(|text| {
        text.parse()
            .map_err(|_| Problem::invalid_field(name, must_be))
    })
    .transpose()
}
