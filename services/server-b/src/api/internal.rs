//! `/internal/v1`: what server A asks on behalf of a user, guarded by the service token.

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRef, Path, Query, Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use service_runtime::api::{self, AnsweredAt};
use service_runtime::database;
use service_runtime::problem::Problem;
use service_runtime::query::known;
use sqlx::PgPool;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::datetime;
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use uuid::Uuid;
use wire_contract::{SmsPage, SmsRecord, SmsStatus, UserId};

use super::error::ApiError;
use super::limit_time;
use super::problems::{SMS_NOT_FOUND, USER_NOT_FOUND};
use crate::sms::records::{self, Filter, ReadError};
use crate::token::{self, Token};

const DEFAULT_LIMIT: u16 = 100;
const MAX_LIMIT: u16 = 1000;
/// Before any SMS, and after all: PostgreSQL and RFC 3339 can write both.
const FIRST: OffsetDateTime = datetime!(0001-01-01 00:00 UTC);
const LAST: OffsetDateTime = datetime!(9999-12-31 00:00 UTC);

#[derive(Debug, Clone, FromRef)]
struct Internal {
    pool: PgPool,
    token: Token,
}

/// The routes.
pub fn router(pool: PgPool, token: Token) -> Router {
    let state = Internal { pool, token };
    let layers = ServiceBuilder::new()
        .layer(from_fn_with_state(AnsweredAt::Debug, api::observe))
        .layer(CatchPanicLayer::custom(api::panicked))
        .layer(from_fn_with_state(state.clone(), require_token))
        .layer(from_fn(limit_time));
    Router::new()
        .route("/internal/v1/users/{user_id}/sms", get(list))
        .route("/internal/v1/users/{user_id}/sms/{message_id}", get(one))
        .method_not_allowed_fallback(api::method_not_allowed)
        .layer(layers)
        .with_state(state)
}

async fn require_token(
    State(expected): State<Token>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    match token::bearer(request.headers()) {
        Some(presented) if expected.matches(presented) => Ok(next.run(request).await),
        _ => Err(Problem::unauthorized("the service token is missing or wrong").into()),
    }
}

/// Another user's SMS is as unknown as one that never was.
async fn one(
    State(pool): State<PgPool>,
    path: Result<Path<(UserId, Uuid)>, PathRejection>,
) -> Result<Json<SmsRecord>, ApiError> {
    let unknown = || Problem::of(&SMS_NOT_FOUND, "the user has no such SMS");
    let Path((user_id, message_id)) = path.map_err(|_| unknown())?;
    let record = records::of_user(&pool, user_id, message_id).await?;
    Ok(Json(record.ok_or_else(unknown)?))
}

#[derive(Debug, Deserialize)]
struct ListQuery {
    cursor: Option<String>,
    limit: Option<String>,
    status: Option<String>,
    from_time: Option<String>,
    to_time: Option<String>,
}

async fn list(
    State(pool): State<PgPool>,
    user_id: Result<Path<UserId>, PathRejection>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<SmsPage>, ApiError> {
    let Path(user_id) =
        user_id.map_err(|_| Problem::of(&USER_NOT_FOUND, "a user_id is an integer"))?;
    let query = known(query)?;
    let filter = filter(&query)?;
    let limit = usize::from(filter.limit);
    // One more tells whether there is another page.
    let more = Filter {
        limit: filter.limit + 1,
        ..filter
    };
    let mut items = records::page(&pool, user_id, more).await?;
    let is_last = items.len() <= limit;
    items.truncate(limit);
    let last = items.last().filter(|_| !is_last);
    let next_cursor = last.map(|last| write_cursor(last.submitted_at, last.message_id));
    Ok(Json(SmsPage { items, next_cursor }))
}

fn filter(query: &ListQuery) -> Result<Filter, Problem> {
    let limit = match &query.limit {
        None => DEFAULT_LIMIT,
        Some(text) => {
            let limit = text.parse().ok().filter(|it| (1..=MAX_LIMIT).contains(it));
            limit.ok_or_else(|| {
                Problem::invalid_field("limit", format!("must be an integer from 1 to {MAX_LIMIT}"))
            })?
        }
    };
    let cursor = query.cursor.as_deref().map(|text| {
        let must_be = "must be a next_cursor of this list";
        read_cursor(text).ok_or_else(|| Problem::invalid_field("cursor", must_be))
    });
    let status = query.status.as_deref().map(|text| {
        let status: Result<SmsStatus, _> = text.parse();
        status.map_err(|error| Problem::invalid_field("status", error.to_string()))
    });
    Ok(Filter {
        before: cursor.transpose()?.unwrap_or((LAST, Uuid::max())),
        status: status.transpose()?,
        from_time: time_of("from_time", query.from_time.as_deref())?.unwrap_or(FIRST),
        to_time: time_of("to_time", query.to_time.as_deref())?.unwrap_or(LAST),
        limit,
    })
}

fn time_of(field: &str, text: Option<&str>) -> Result<Option<OffsetDateTime>, Problem> {
    let time = text.map(|text| {
        let time = OffsetDateTime::parse(text, &Rfc3339).ok();
        // What lies outside says the same as the bound.
        let time = time.map(|time| time.clamp(FIRST, LAST));
        time.ok_or_else(|| {
            Problem::invalid_field(
                field,
                "must be a time of RFC 3339, such as 2026-01-31T12:00:00Z",
            )
        })
    });
    time.transpose()
}

/// Microseconds, as PostgreSQL keeps them, and the id.
fn write_cursor(submitted_at: OffsetDateTime, message_id: Uuid) -> String {
    let micros = i64::try_from(submitted_at.unix_timestamp_nanos() / 1000).unwrap_or(i64::MAX);
    let mut bytes = micros.to_be_bytes().to_vec();
    bytes.extend_from_slice(message_id.as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

fn read_cursor(text: &str) -> Option<(OffsetDateTime, Uuid)> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let (micros, id) = bytes.split_first_chunk()?;
    let nanos = i128::from(i64::from_be_bytes(*micros)) * 1000;
    let time = OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()?;
    let in_range = (FIRST..=LAST).contains(&time);
    Some((time, Uuid::from_slice(id).ok()?)).filter(|_| in_range)
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        Self::from(match error {
            ReadError::Database(error) => database::problem(error),
            ReadError::Row(error) => Problem::internal(&error),
            ReadError::Aborted(error) => Problem::internal(&error.into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written_and_nothing_else_is() {
        let (time, id) = (
            datetime!(2026-01-02 03:04:05.678901 UTC),
            Uuid::from_u128(7),
        );
        assert_eq!(read_cursor(&write_cursor(time, id)), Some((time, id)));
        for wrong in ["", "x", "AAAA", &URL_SAFE_NO_PAD.encode([0xFF; 25]), "?"] {
            assert_eq!(read_cursor(wrong), None, "{wrong}");
        }
        let far = URL_SAFE_NO_PAD.encode([0x7F; 24]);
        assert_eq!(read_cursor(&far), None);
    }
}
