//! `/admin/v1/sms`: what became of an SMS. Who it went to and its text are not told.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use service_runtime::problem::Problem;
use sqlx::PgPool;
use uuid::Uuid;

use super::error::ApiError;
use super::openapi::{PROBLEM, ProblemBody};
use super::problems::SMS_NOT_FOUND;
use crate::sms::{self, SmsStatus};

/// What became of an SMS
#[utoipa::path(get, path = "/admin/v1/sms/{message_id}", tag = "sms",
    params(("message_id" = Uuid, Path, description = "As server A answered")),
    responses(
        (status = 200, description = "How far it is", body = SmsStatus),
        (status = 404, description = "`sms_not_found`: also while it is in the queue", body = ProblemBody, content_type = PROBLEM),
    ))]
pub async fn get(
    State(pool): State<PgPool>,
    message_id: Result<Path<Uuid>, PathRejection>,
) -> Result<Json<SmsStatus>, ApiError> {
    let unknown = || Problem::of(&SMS_NOT_FOUND, "no such SMS has come from the queue");
    let Path(message_id) = message_id.map_err(|_| unknown())?;
    let status = sms::find(&pool, message_id).await?;
    Ok(Json(status.ok_or_else(unknown)?))
}
