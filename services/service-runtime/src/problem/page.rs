//! `/errors`, where the `type` of each problem leads.

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;

use super::{PAGE, ProblemType, catalogue::html_page};
use crate::api;

/// The page loads nothing and runs nothing.
const POLICY: &str =
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page of a service's catalogue, and a redirect for each kind to its place there.
pub fn router<S>(service: &str, types: Vec<&'static ProblemType>) -> Router<S>
where
    S: Clone + Send + Sync + 'static,
{
    let page = Html(html_page(service, &types));
    let found = async move |Path(code): Path<String>| match types.iter().find(|it| it.code == code)
    {
        Some(kind) => place(kind),
        None => api::not_found().await.into_response(),
    };
    Router::new()
        .route(PAGE, get(async || (page_headers(POLICY), page)))
        .route(&format!("{PAGE}/{{code}}"), get(found))
}

fn place(kind: &ProblemType) -> Response {
    let place = format!("{PAGE}#{}", kind.code);
    (StatusCode::SEE_OTHER, [(header::LOCATION, place)]).into_response()
}

/// What goes with a page for browsers, and with it this `Content-Security-Policy`.
#[must_use]
pub fn page_headers(policy: &'static str) -> [(HeaderName, &'static str); 3] {
    [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ]
}
