//! `/api/v1/auth-user-references`.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use serde::Deserialize;
use service_runtime::database;
use service_runtime::problem::{Problem, openapi};
use service_runtime::query::{known, parameter};
use sqlx::PgPool;
use utoipa::openapi::RefOr;
use utoipa::openapi::response::Response;
use utoipa::{IntoParams, IntoResponses};
use wire_contract::UserId;

use super::problems::{self, REFERENCE_NOT_FOUND};
use crate::references::{self, AuthUserReference, MAX_PAGE, ReferencePage};

/// References in a page where the query does not say.
const DEFAULT_PAGE: u16 = 100;

/// Texts, so that an error can name the parameter.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// `next_cursor` of the page before
    #[param(value_type = Option<i64>)]
    cursor: Option<String>,
    /// References of the page at most
    #[param(value_type = Option<u16>, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<String>,
}

struct ListProblems;
impl IntoResponses for ListProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        openapi::responses(&problems::of_list())
    }
}

struct OneProblems;
impl IntoResponses for OneProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        openapi::responses(&problems::of_one())
    }
}

/// The references, in the order of their ids
#[utoipa::path(
    get,
    path = "/api/v1/auth-user-references",
    params(ListQuery),
    responses(
        (status = 200, body = ReferencePage),
        ListProblems,
    )
)]
pub async fn list(
    State(pool): State<PgPool>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<ReferencePage>, Problem> {
    let query = known(query)?;
    let cursor = parameter("cursor", query.cursor, "must be a next_cursor of this list")?;
    let must_be = format!("must be an integer from 1 to {MAX_PAGE}");
    let limit = parameter("limit", query.limit, &must_be)?.unwrap_or(DEFAULT_PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(Problem::invalid_field("limit", must_be));
    }
    let page = references::list(&pool, cursor, limit).await;
    page.map(Json).map_err(database::problem)
}

/// One reference
#[utoipa::path(
    get,
    path = "/api/v1/auth-user-references/{user_id}",
    params(("user_id" = i64, Path, description = "The auth-service's id")),
    responses(
        (status = 200, body = AuthUserReference),
        OneProblems,
    )
)]
pub async fn get(
    State(pool): State<PgPool>,
    user_id: Result<Path<UserId>, PathRejection>,
) -> Result<Json<AuthUserReference>, Problem> {
    // A path that is not a number names no user.
    let Path(user_id) = user_id.map_err(|_| not_found("a user_id is an integer"))?;
    references::find(&pool, user_id)
        .await
        .map_err(database::problem)?
        .map(Json)
        .ok_or_else(|| not_found(format!("there is no reference of user {user_id}")))
}

fn not_found(detail: impl Into<String>) -> Problem {
    Problem::of(&REFERENCE_NOT_FOUND, detail)
}
