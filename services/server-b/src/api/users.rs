//! `/admin/v1/users`, and the keys of a user.

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::IntoResponse;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use service_runtime::problem::Problem;
use service_runtime::query::{known, parameter, time};
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};
use wire_contract::UserId;

use super::error::ApiError;
use super::etag::{IfMatch, etag};
use super::json::{JsonBody, present};
use super::openapi::{IfMatchParam, PROBLEM, ProblemBody, UserIdParam};
use super::problems::{KEY_NOT_FOUND, USER_NOT_FOUND};
use crate::keys::{KeyRing, NewKey};
use crate::users::{
    CreatedUser, MAX_PAGE, NewUser, Rotation, User, UserChanges, UserFilter, UserKey, UserPage,
    Users,
};

/// Users in a page where the query does not say.
const DEFAULT_PAGE: u16 = 100;

/// Texts, so that an error can name the parameter.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// `next_cursor` of the page before
    #[param(value_type = Option<i64>)]
    cursor: Option<String>,
    /// Users of the page at most
    #[param(value_type = Option<u16>, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<String>,
    /// The one of exactly this name
    #[param(pattern = "^[^\\x00]*$")]
    username: Option<String>,
    /// Those whose name begins so
    #[param(pattern = "^[^\\x00]*$")]
    username_prefix: Option<String>,
    /// Those that may send, or may not
    #[param(value_type = Option<bool>)]
    is_active: Option<String>,
    /// Those created at this time or later
    #[param(value_type = Option<String>, format = DateTime)]
    created_after: Option<String>,
    /// Those created before this time
    #[param(value_type = Option<String>, format = DateTime)]
    created_before: Option<String>,
}

/// A user to create.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateUser {
    /// Unique name, without control characters, and without white space at either end.
    #[schema(min_length = 1, max_length = 150)]
    username: String,
    /// Whether sends are accepted; `true` when absent.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = bool, required = false)]
    is_active: Option<bool>,
    /// SMS segments a UTC day; 1000 when absent.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = i32, required = false, minimum = 0)]
    daily_quota: Option<i32>,
    /// An existing key; generated when absent. One that begins with `isk_` must have its checksum.
    #[schema(value_type = Option<String>, min_length = 8, max_length = 256, pattern = "^(?!sha256:)[!-~]+$")]
    api_key: Option<SecretString>,
    /// Until when the key is accepted; until it is replaced when absent. In the future.
    #[serde(default, with = "time::serde::rfc3339::option")]
    key_expires_at: Option<OffsetDateTime>,
}

/// What to change; what is absent stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchUser {
    /// Another unique name.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = String, required = false, min_length = 1, max_length = 150)]
    username: Option<String>,
    /// Whether sends are accepted.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = bool, required = false)]
    is_active: Option<bool>,
    /// SMS segments a UTC day.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = i32, required = false, minimum = 0)]
    daily_quota: Option<i32>,
}

/// Another key.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateKey {
    /// An existing key; generated when absent. One that begins with `isk_` must have its checksum.
    #[schema(value_type = Option<String>, min_length = 8, max_length = 256, pattern = "^(?!sha256:)[!-~]+$")]
    api_key: Option<SecretString>,
    /// How long replaced keys are still accepted.
    #[schema(maximum = 2_592_000)]
    overlap_seconds: Option<u32>,
    /// Until when the key is accepted; until it is replaced when absent. In the future.
    #[serde(default, with = "time::serde::rfc3339::option")]
    key_expires_at: Option<OffsetDateTime>,
}

/// The new key: the only answer that ever shows it.
#[derive(Serialize, ToSchema)]
pub struct RotatedKey {
    /// Whose it is.
    user_id: UserId,
    /// The key, never to be seen again.
    api_key: String,
    /// The user's version.
    version: i64,
}

/// The keys of a user, the current one first.
#[derive(Serialize, ToSchema)]
pub struct UserKeys {
    /// The keys.
    keys: Vec<UserKey>,
}

/// An answer with the version of its user.
type Tagged<T> = ([(HeaderName, String); 1], Json<T>);

type UserIdPath = Result<Path<UserId>, PathRejection>;

/// The users in the order of their ids
#[utoipa::path(get, path = "/admin/v1/users", tag = "users", params(ListQuery),
    responses((status = 200, description = "A page", body = UserPage)))]
pub async fn list(
    users: Users,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<UserPage>, ApiError> {
    let query = known(query)?;
    let cursor = parameter("cursor", query.cursor, "must be a next_cursor of this list")?;
    let must_be = format!("must be an integer from 1 to {MAX_PAGE}");
    let limit = parameter("limit", query.limit, &must_be)?;
    let filter = UserFilter {
        username: query.username,
        username_prefix: query.username_prefix,
        is_active: parameter("is_active", query.is_active, "must be true or false")?,
        created_after: time("created_after", query.created_after)?,
        created_before: time("created_before", query.created_before)?,
    };
    let page = users.list(cursor, limit.unwrap_or(DEFAULT_PAGE), &filter);
    Ok(Json(page.await?))
}

/// Creates a user with an API key, which only this answer shows
#[utoipa::path(post, path = "/admin/v1/users", tag = "users", request_body = CreateUser,
    responses(
        (status = 201, description = "Created", body = CreatedUser,
         headers(("Location" = String, description = "The user"), ("ETag" = String, description = "Its version"))),
        (status = 409, description = "`username_taken`, `api_key_taken`", body = ProblemBody, content_type = PROBLEM),
    ))]
pub async fn create(
    users: Users,
    State(keys): State<KeyRing>,
    JsonBody(body): JsonBody<CreateUser>,
) -> Result<impl IntoResponse + use<>, ApiError> {
    let api_key = given_or_generated(body.api_key)?;
    let new = NewUser {
        username: body.username,
        is_active: body.is_active.unwrap_or(NewUser::IS_ACTIVE),
        daily_quota: body.daily_quota.unwrap_or(NewUser::DAILY_QUOTA),
        api_key: api_key.clone(),
        key_expires_at: body.key_expires_at,
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

/// One user
#[utoipa::path(get, path = "/admin/v1/users/{user_id}", tag = "users", params(UserIdParam),
    responses(
        (status = 200, description = "The user", body = User, headers(("ETag" = String, description = "Its version"))),
        (status = 404, description = "`user_not_found`", body = ProblemBody, content_type = PROBLEM),
    ))]
pub async fn get(users: Users, user_id: UserIdPath) -> Result<Tagged<User>, ApiError> {
    let user = users.get(existing(&user_id)?).await?;
    Ok((etag(&user), Json(user)))
}

/// Changes a user
#[utoipa::path(patch, path = "/admin/v1/users/{user_id}", tag = "users", params(UserIdParam, IfMatchParam),
    request_body = PatchUser,
    responses(
        (status = 200, description = "Changed", body = User, headers(("ETag" = String, description = "Its version"))),
        (status = 404, description = "`user_not_found`", body = ProblemBody, content_type = PROBLEM),
        (status = 409, description = "`username_taken`", body = ProblemBody, content_type = PROBLEM),
        (status = 412, description = "`version_changed`", body = ProblemBody, content_type = PROBLEM),
    ))]
pub async fn update(
    users: Users,
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

/// Deletes a user with its keys
#[utoipa::path(delete, path = "/admin/v1/users/{user_id}", tag = "users", params(UserIdParam, IfMatchParam),
    responses(
        (status = 204, description = "Deleted"),
        (status = 404, description = "`user_not_found`", body = ProblemBody, content_type = PROBLEM),
        (status = 412, description = "`version_changed`", body = ProblemBody, content_type = PROBLEM),
    ))]
pub async fn delete(
    users: Users,
    user_id: UserIdPath,
    IfMatch(if_version): IfMatch,
) -> Result<StatusCode, ApiError> {
    users.delete(existing(&user_id)?, if_version).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Gives a user another API key, which only this answer shows
#[utoipa::path(post, path = "/admin/v1/users/{user_id}/rotate-key", tag = "keys", params(UserIdParam, IfMatchParam),
    request_body(content = Option<RotateKey>),
    responses(
        (status = 200, description = "The new key", body = RotatedKey, headers(("ETag" = String, description = "The user's version"))),
        (status = 404, description = "`user_not_found`", body = ProblemBody, content_type = PROBLEM),
        (status = 409, description = "`api_key_taken`", body = ProblemBody, content_type = PROBLEM),
        (status = 412, description = "`version_changed`", body = ProblemBody, content_type = PROBLEM),
    ))]
pub async fn rotate_key(
    users: Users,
    State(keys): State<KeyRing>,
    user_id: UserIdPath,
    IfMatch(if_version): IfMatch,
    JsonBody(body): JsonBody<RotateKey>,
) -> Result<Tagged<RotatedKey>, ApiError> {
    let api_key = given_or_generated(body.api_key)?;
    let rotation = Rotation {
        api_key: api_key.clone(),
        overlap_seconds: body.overlap_seconds.unwrap_or(0).into(),
        key_expires_at: body.key_expires_at,
    };
    let rotated = users.rotate_key(&keys, existing(&user_id)?, rotation, if_version);
    let user = rotated.await?;
    let rotated = RotatedKey {
        user_id: user.user_id,
        api_key: api_key.expose().to_owned(),
        version: user.version,
    };
    Ok((etag(&user), Json(rotated)))
}

/// The API keys of a user, of which only the beginning is known
#[utoipa::path(get, path = "/admin/v1/users/{user_id}/keys", tag = "keys", params(UserIdParam),
    responses(
        (status = 200, description = "The keys", body = UserKeys),
        (status = 404, description = "`user_not_found`", body = ProblemBody, content_type = PROBLEM),
    ))]
pub async fn keys(users: Users, user_id: UserIdPath) -> Result<Json<UserKeys>, ApiError> {
    let keys = users.keys(existing(&user_id)?).await?;
    Ok(Json(UserKeys { keys }))
}

/// Refuses one API key of a user from now on
#[utoipa::path(delete, path = "/admin/v1/users/{user_id}/keys/{key_id}", tag = "keys",
    params(UserIdParam, ("key_id" = i64, Path, description = "As the list of keys has it"), IfMatchParam),
    responses(
        (status = 204, description = "Revoked"),
        (status = 404, description = "`user_not_found`, `key_not_found`", body = ProblemBody, content_type = PROBLEM),
        (status = 412, description = "`version_changed`", body = ProblemBody, content_type = PROBLEM),
    ))]
pub async fn revoke_key(
    users: Users,
    path: Result<Path<(UserId, i64)>, PathRejection>,
    IfMatch(if_version): IfMatch,
) -> Result<StatusCode, ApiError> {
    let unknown = |_| Problem::of(&KEY_NOT_FOUND, "a user_id and a key_id are integers");
    let Path((user_id, key_id)) = path.map_err(unknown)?;
    users.revoke_key(user_id, key_id, if_version).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn given_or_generated(key: Option<SecretString>) -> Result<NewKey, ApiError> {
    Ok(key.map_or_else(|| Ok(NewKey::generate()), NewKey::import)?)
}

/// A path that is not a number names no user.
fn existing(user_id: &UserIdPath) -> Result<UserId, Problem> {
    match user_id {
        Ok(Path(user_id)) => Ok(*user_id),
        Err(_) => Err(Problem::of(&USER_NOT_FOUND, "a user_id is an integer")),
    }
}
