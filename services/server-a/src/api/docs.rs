//! What describes the API: `/openapi.json`, the page `/docs` made of it, and `/errors`. All of it comes from this process:
//! the pages load nothing from anywhere else.

use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use axum::extract::Path;
use axum::http::header;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use service_runtime::problem::{self, NOT_FOUND, Problem, page_headers};
use utoipa::openapi::OpenApi as Document;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_swagger_ui::Config;

use super::problems;

const DOCUMENT: &str = "/openapi.json";
/// Swagger UI puts styles into elements, and has pictures in its style sheet.
const SCRIPTS_OF_OUR_OWN: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
     img-src 'self' data:; font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The head of the document; the routes add their operations.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "SMS API",
        description = "Sends SMS, and tells what became of them. Errors are problems (RFC 9457); /errors lists them all."
    ),
    components(schemas(problem::openapi::ProblemBody)),
    modifiers(&Security)
)]
pub struct Description;

struct Security;
impl Modify for Security {
    fn modify(&self, document: &mut Document) {
        let Some(components) = &mut document.components else {
            return;
        };
        let key = SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::with_description(
            "API-Key",
            "The API key of a user",
        )));
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("The same key, as a bearer token (RFC 6750)"))
            .build();
        components.add_security_scheme("api_key", key);
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    }
}

/// Routes of the document and the pages.
///
/// # Errors
/// If the document cannot be written as JSON.
pub fn router<S: Clone + Send + Sync + 'static>(document: &Document) -> anyhow::Result<Router<S>> {
    let document = document
        .to_json()
        .context("cannot write the OpenAPI document")?;
    let document = get(async || ([(header::CONTENT_TYPE, "application/json")], document));
    let config = Arc::new(Config::from(DOCUMENT).validator_url("none"));
    let index = Arc::clone(&config);
    Ok(Router::new()
        .route(DOCUMENT, document)
        .route("/docs", get(async || Redirect::permanent("/docs/")))
        .route("/docs/", get(async || file("", index)))
        .route(
            "/docs/{*file}",
            get(async |Path(path): Path<String>| file(&path, config)),
        )
        .merge(problem::router("server A", problems::catalogue())))
}

/// A file of Swagger UI, which is built into the binary.
fn file(path: &str, config: Arc<Config<'static>>) -> Response {
    match utoipa_swagger_ui::serve(path, config) {
        Ok(Some(file)) => {
            let headers = [(header::CONTENT_TYPE, file.content_type)];
            (page_headers(SCRIPTS_OF_OUR_OWN), headers, file.bytes).into_response()
        }
        Ok(None) => Problem::of(&NOT_FOUND, "there is no such file").into_response(),
        Err(error) => {
            Problem::internal(&anyhow::anyhow!("a page of /docs: {error}")).into_response()
        }
    }
}

#[cfg(test)]
#[path = "docs_tests.rs"]
mod tests;
