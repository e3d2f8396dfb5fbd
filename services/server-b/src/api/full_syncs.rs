//! `/admin/v1/full-syncs`.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderName, StatusCode, header};
use serde::Serialize;
use service_runtime::problem::Problem;
use sqlx::PgPool;
use utoipa::ToSchema;
use uuid::Uuid;

use super::auth::Caller;
use super::error::ApiError;
use super::openapi::{PROBLEM, ProblemBody};
use super::problems::SYNC_NOT_FOUND;
use crate::full_sync::{self, SyncStatus};

/// A full sync that was asked for.
#[derive(Serialize, ToSchema)]
pub struct RequestedSync {
    /// Names it.
    sync_id: Uuid,
    /// `requested`
    status: &'static str,
}

/// Asks for a full sync: every user is published to every replica
#[utoipa::path(post, path = "/admin/v1/full-syncs", tag = "replicas",
    responses((status = 202, description = "Asked for; a server B runs it", body = RequestedSync,
               headers(("Location" = String, description = "How far it is")))))]
pub async fn create(
    State(pool): State<PgPool>,
    caller: Caller,
) -> Result<(StatusCode, [(HeaderName, String); 1], Json<RequestedSync>), ApiError> {
    let sync_id = full_sync::request(&pool, &caller.actor).await?;
    Ok((
        StatusCode::ACCEPTED,
        [(header::LOCATION, format!("/admin/v1/full-syncs/{sync_id}"))],
        Json(RequestedSync {
            sync_id,
            status: "requested",
        }),
    ))
}

/// How far a full sync is
#[utoipa::path(get, path = "/admin/v1/full-syncs/{sync_id}", tag = "replicas",
    params(("sync_id" = Uuid, Path, description = "As the request for it was answered")),
    responses(
        (status = 200, description = "How far it is", body = SyncStatus),
        (status = 404, description = "`sync_not_found`", body = ProblemBody, content_type = PROBLEM),
    ))]
pub async fn get(
    State(pool): State<PgPool>,
    sync_id: Result<Path<Uuid>, PathRejection>,
) -> Result<Json<SyncStatus>, ApiError> {
    let unknown = || Problem::of(&SYNC_NOT_FOUND, "there is no such full sync");
    let Path(sync_id) = sync_id.map_err(|_| unknown())?;
    let status = full_sync::find(&pool, sync_id).await?;
    Ok(Json(status.ok_or_else(unknown)?))
}
