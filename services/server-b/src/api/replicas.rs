//! `/admin/v1/replicas`, and `?wait=all` on every write.

use std::time::Duration;

use axum::Json;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use service_runtime::problem::Problem;
use service_runtime::query::{known, parameter};
use sqlx::PgPool;
use utoipa::ToSchema;

use super::error::ApiError;
use crate::replicas::{self, LiveReplica, Until};

/// Names the replicas that have applied the change.
const APPLIED: HeaderName = HeaderName::from_static("replicas-applied");
/// Names the live replicas that had not when the deadline passed.
const WAITING: HeaderName = HeaderName::from_static("replicas-waiting");
/// Instead of names: which replicas there are, or how far they have to come, is not known.
const UNKNOWN: &str = "unknown";
/// Seconds, where the query does not say; less than the API's own limit at most.
const DEFAULT_WAIT: u64 = 10;
const MAX_WAIT: u64 = 25;
/// For the look at the replicas that is under way when the deadline passes.
const GRACE: Duration = Duration::from_secs(2);

/// The replicas that may be serving.
#[derive(Serialize, ToSchema)]
pub struct Replicas {
    /// By name.
    replicas: Vec<LiveReplica>,
}

/// The live replicas of server A, how far each is, and whether it is proven
#[utoipa::path(get, path = "/admin/v1/replicas", tag = "replicas",
    responses((status = 200, description = "The replicas", body = Replicas)))]
pub async fn list(State(pool): State<PgPool>) -> Result<Json<Replicas>, ApiError> {
    let replicas = replicas::live(&pool).await?;
    Ok(Json(Replicas { replicas }))
}

/// Texts, so that an error can name the parameter.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WaitQuery {
    wait: Option<String>,
    wait_seconds: Option<String>,
}

/// With `?wait=all`, answers a write when every live replica has applied it, or names those that have not. The answer
/// itself stays as it is: the change is made, and a key in it is shown only once.
pub async fn wait_for_replicas(
    State(pool): State<PgPool>,
    request: Request,
    next: Next,
) -> Response {
    let deadline = match deadline(&request) {
        Ok(deadline) => deadline,
        Err(problem) => return problem.into_response(),
    };
    let mut response = next.run(request).await;
    let Some(deadline) = deadline.filter(|_| response.status().is_success()) else {
        return response;
    };
    let waiting = replicas::wait(&pool, Until::Applied, deadline);
    // The database may hang in the middle of the wait.
    let waited = tokio::time::timeout(deadline + GRACE, waiting)
        .await
        .unwrap_or_else(|_| Err(anyhow::anyhow!("the database does not answer")));
    match waited {
        Ok(waited) => {
            let headers = response.headers_mut();
            headers.insert(APPLIED, names(&waited.reached));
            let waiting = waited.unknown.map(|_| HeaderValue::from_static(UNKNOWN));
            headers.insert(WAITING, waiting.unwrap_or_else(|| names(&waited.waiting)));
        }
        Err(error) => {
            tracing::warn!(error = format!("{error:#}"), "cannot wait for the replicas");
            let unknown = HeaderValue::from_static(UNKNOWN);
            response.headers_mut().insert(WAITING, unknown);
        }
    }
    response
}

/// How long to wait, if at all.
fn deadline(request: &Request) -> Result<Option<Duration>, Problem> {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(None);
    }
    let query = known(Query::<WaitQuery>::try_from_uri(request.uri()))?;
    let must_be = format!("must be an integer from 1 to {MAX_WAIT}");
    let seconds = parameter("wait_seconds", query.wait_seconds, &must_be)?.unwrap_or(DEFAULT_WAIT);
    if !(1..=MAX_WAIT).contains(&seconds) {
        return Err(Problem::invalid_field("wait_seconds", must_be));
    }
    match query.wait.as_deref() {
        None => Ok(None),
        Some("all") => Ok(Some(Duration::from_secs(seconds))),
        Some(_) => Err(Problem::invalid_field("wait", "must be `all`")),
    }
}

/// Instances are made of letters, digits, - and _.
fn names(instances: &[String]) -> HeaderValue {
    HeaderValue::from_str(&instances.join(", "))
        .unwrap_or_else(|_| HeaderValue::from_static(UNKNOWN))
}
