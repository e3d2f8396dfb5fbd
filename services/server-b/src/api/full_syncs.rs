//! `/admin/v1/full-syncs`.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderName, StatusCode, header};
use serde::Serialize;
use sqlx::PgPool;
use uuid::Uuid;

use super::error::{ApiError, not_found};
use crate::full_sync::{self, SyncStatus};

/// Who asked, in the row of the sync.
const REQUESTED_BY: &str = "admin API";

#[derive(Serialize)]
pub struct RequestedSync {
    sync_id: Uuid,
    status: &'static str,
}

pub async fn create(
    State(pool): State<PgPool>,
) -> Result<(StatusCode, [(HeaderName, String); 1], Json<RequestedSync>), ApiError> {
    let sync_id = full_sync::request(&pool, REQUESTED_BY).await?;
    Ok((
        StatusCode::ACCEPTED,
        [(header::LOCATION, format!("/admin/v1/full-syncs/{sync_id}"))],
        Json(RequestedSync {
            sync_id,
            status: "requested",
        }),
    ))
}

pub async fn get(
    State(pool): State<PgPool>,
    sync_id: Result<Path<Uuid>, PathRejection>,
) -> Result<Json<SyncStatus>, ApiError> {
    let unknown = || not_found("sync_not_found", "there is no such full sync");
    let Path(sync_id) = sync_id.map_err(|_| unknown())?;
    let status = full_sync::find(&pool, sync_id).await?;
    Ok(Json(status.ok_or_else(unknown)?))
}
