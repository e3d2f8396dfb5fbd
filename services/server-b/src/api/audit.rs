//! `/admin/v1/audit`: who changed what.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::Deserialize;
use service_runtime::problem::Problem;
use service_runtime::query::{known, parameter, time};
use sqlx::PgPool;
use utoipa::IntoParams;

use super::error::ApiError;
use crate::audit_log::{self, AuditFilter, AuditPage, MAX_PAGE};

/// Entries in a page where the query does not say.
const DEFAULT_PAGE: u16 = 100;

/// Texts, so that an error can name the parameter.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditQuery {
    /// `next_cursor` of the page before
    #[param(value_type = Option<i64>)]
    cursor: Option<String>,
    /// Entries of the page at most
    #[param(value_type = Option<u16>, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<String>,
    /// Those of this user
    #[param(value_type = Option<i64>)]
    user_id: Option<String>,
    /// Those of this actor: `token:<name>`, `cli:<user>` or `sql:<role>`
    #[param(pattern = "^[^\\x00]*$")]
    actor: Option<String>,
    /// Those of this time or later
    #[param(value_type = Option<String>, format = DateTime)]
    from_time: Option<String>,
    /// Those before this time
    #[param(value_type = Option<String>, format = DateTime)]
    to_time: Option<String>,
}

/// The changes, the newest first
#[utoipa::path(get, path = "/admin/v1/audit", tag = "audit", params(AuditQuery),
    responses((status = 200, description = "A page", body = AuditPage)))]
pub async fn list(
    State(pool): State<PgPool>,
    query: Result<Query<AuditQuery>, QueryRejection>,
) -> Result<Json<AuditPage>, ApiError> {
    let query = known(query)?;
    let must_be = format!("must be an integer from 1 to {MAX_PAGE}");
    let limit = parameter("limit", query.limit, &must_be)?.unwrap_or(DEFAULT_PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(Problem::invalid_field("limit", must_be).into());
    }
    // PostgreSQL refuses a text with a zero byte.
    if query
        .actor
        .as_ref()
        .is_some_and(|actor| actor.contains('\0'))
    {
        return Err(Problem::invalid_field("actor", "must not contain control characters").into());
    }
    let filter = AuditFilter {
        cursor: parameter("cursor", query.cursor, "must be a next_cursor of this list")?,
        user_id: parameter("user_id", query.user_id, "must be an integer")?,
        actor: query.actor,
        from_time: time("from_time", query.from_time)?,
        to_time: time("to_time", query.to_time)?,
    };
    Ok(Json(audit_log::list(&pool, limit, &filter).await?))
}
