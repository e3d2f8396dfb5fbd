//! What the description of the API says beside its routes, and of all of them alike.

use anyhow::Context;
use serde_json::{Map, Value, json};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{IntoParams, Modify, OpenApi};

use service_runtime::problem::openapi;
pub use service_runtime::problem::openapi::{MEDIA_TYPE as PROBLEM, ProblemBody};

use super::problems;

/// Name of the security scheme.
const TOKEN: &str = "token";
const METHODS_THAT_WRITE: [&str; 4] = ["post", "put", "patch", "delete"];

/// The document before the routes.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "server B, admin API",
        description = "Users, their API keys, tokens of this API, the audit log, full syncs and replicas"
    ),
    modifiers(&BearerToken),
    components(schemas(ProblemBody))
)]
pub struct Description;

struct BearerToken;

impl Modify for BearerToken {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let components = openapi.components.get_or_insert_with(Default::default);
        let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        components.add_security_scheme(TOKEN, bearer);
    }
}

/// The user in a path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "describes a parameter")]
pub struct UserIdParam {
    /// Stable primary key of the user
    user_id: i64,
}

/// See [`super::etag`].
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "describes a parameter")]
pub struct IfMatchParam {
    /// The `ETag` that the change is meant for, or several, or `*`
    #[param(
        rename = "If-Match",
        required = false,
        min_length = 1,
        pattern = "^(\\*|\"[0-9]{1,18}\"(, ?\"[0-9]{1,18}\")*)$"
    )]
    if_match: String,
}

/// Adds what is the same everywhere: the token, `?wait`, and the errors that any request may meet.
///
/// # Errors
/// If the document cannot be written as JSON.
pub fn complete(description: utoipa::openapi::OpenApi) -> anyhow::Result<String> {
    let mut document =
        serde_json::to_value(description).context("cannot write the OpenAPI document")?;
    let paths = document["paths"].as_object_mut().into_iter().flatten();
    for (_, path) in paths {
        for (method, operation) in path.as_object_mut().into_iter().flatten() {
            if let Some(operation) = operation.as_object_mut() {
                complete_operation(METHODS_THAT_WRITE.contains(&method.as_str()), operation)?;
            }
        }
    }
    serde_json::to_string(&document).context("cannot write the OpenAPI document")
}

fn complete_operation(writes: bool, operation: &mut Map<String, Value>) -> anyhow::Result<()> {
    operation.insert("security".to_owned(), json!([{ TOKEN: [] }]));
    let has_body = operation.contains_key("requestBody");
    let parameters = operation.entry("parameters").or_insert(json!([]));
    let is_in = |place: &str| {
        let mut all = parameters.as_array().into_iter().flatten();
        all.any(|parameter| parameter["in"] == place)
    };
    // The only header that any of them reads.
    let (has_query, has_if_match) = (is_in("query"), is_in("header"));
    if writes && let Some(parameters) = parameters.as_array_mut() {
        parameters.extend(wait_parameters());
    }
    let Some(responses) = operation
        .get_mut("responses")
        .and_then(Value::as_object_mut)
    else {
        return Ok(());
    };
    if writes {
        for (status, response) in responses.iter_mut() {
            if status.starts_with('2') {
                add_headers(response, &WAIT_HEADERS);
            }
        }
    }
    let mut kinds = problems::OF_ANY.to_vec();
    for (meets, more) in [
        (writes, problems::OF_WRITES.as_slice()),
        (has_body, &problems::WITH_BODY),
        (has_if_match, &problems::WITH_IF_MATCH),
        // All that write take `wait`.
        (writes || has_query, &problems::WITH_FIELDS),
    ] {
        kinds.extend(more.iter().filter(|_| meets));
    }
    for (status, response) in openapi::responses(&kinds) {
        let response =
            serde_json::to_value(response).context("cannot write the OpenAPI document")?;
        responses.entry(status).or_insert(response);
    }
    Ok(())
}

const WAIT_HEADERS: [(&str, &str); 2] = [
    (
        "Replicas-Applied",
        "With `wait`: the replicas that have applied the change",
    ),
    (
        "Replicas-Waiting",
        "With `wait`: the live replicas that had not in time",
    ),
];

fn add_headers(response: &mut Value, headers: &[(&str, &str)]) {
    for (name, text) in headers {
        response["headers"][name] = json!({ "description": text, "schema": { "type": "string" } });
    }
}

fn wait_parameters() -> [Value; 2] {
    [
        json!({
            "name": "wait", "in": "query", "required": false,
            "description": "`all`: answer when every live replica has applied the change",
            "schema": { "type": "string", "enum": ["all"] },
        }),
        json!({
            "name": "wait_seconds", "in": "query", "required": false,
            "description": "How long to wait at most",
            "schema": { "type": "integer", "minimum": 1, "maximum": 25, "default": 10 },
        }),
    ]
}
