//! `/admin/v1/sms`: what became of an SMS. Who it went to and its text are not told.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use sqlx::PgPool;
use uuid::Uuid;

use super::error::{ApiError, not_found};
use crate::sms::{self, SmsStatus};

pub async fn get(
    State(pool): State<PgPool>,
    message_id: Result<Path<Uuid>, PathRejection>,
) -> Result<Json<SmsStatus>, ApiError> {
    let unknown = || not_found("sms_not_found", "no such SMS has come from the queue");
    let Path(message_id) = message_id.map_err(|_| unknown())?;
    let status = sms::find(&pool, message_id).await?;
    Ok(Json(status.ok_or_else(unknown)?))
}
