//! The admin API over a real database: tokens, the audit log, keys, lists, and what nobody should send.

mod audit_log;
mod disconnects;
mod fuzz;
mod keys;
mod lists;
mod tokens;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header};
use serde_json::Value;
use server_b::MIGRATOR;
use server_b::api::{AdminTokenArgs, ApiState, router};
use server_b::keys::{ApiKeyMode, KeyArgs, KeyRing};
use service_runtime::config::DatabaseArgs;
use service_runtime::database;
use sqlx::PgPool;
use test_support::{TestDatabase, TestServers};
use tower::ServiceExt;

/// The configured token.
const TOKEN: &str = "0123456789abcdef";
/// Two sealing keys.
const FIRST: &str = "1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
const SECOND: &str = "2:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

struct Answer {
    status: StatusCode,
    text: String,
    body: Value,
}

struct Api {
    router: Router,
    pool: PgPool,
    database: TestDatabase,
}

fn ring(keys: &str) -> KeyRing {
    let keys = KeyArgs {
        api_key_mode: ApiKeyMode::Plain,
        key_sealing_key_file: None,
        key_sealing_key: Some(keys.into()),
    };
    KeyRing::from_args(&keys).expect("usable keys")
}

async fn migrated(url: &str, connections: u32) -> PgPool {
    let args = DatabaseArgs {
        database_url: url.to_owned().into(),
        database_max_connections: connections,
    };
    let pool = database::pool("test", &args).expect("a valid URL");
    database::migrate(&pool, &MIGRATOR).await.expect("migrated");
    pool
}

fn api_over(pool: &PgPool) -> Router {
    let token = AdminTokenArgs {
        admin_token: Some(TOKEN.into()),
        admin_token_file: None,
    };
    let state = ApiState {
        pool: pool.clone(),
        keys: ring(FIRST),
        admin_token: token.token().expect("long enough"),
    };
    router(state).expect("the description is JSON")
}

impl Api {
    async fn start() -> Self {
        let database = TestServers::shared().fresh_database();
        let pool = migrated(database.url(), 4).await;
        Self {
            router: api_over(&pool),
            pool,
            database,
        }
    }

    /// With the configured token.
    async fn call(&self, method: &str, path: &str, body: &str) -> Answer {
        self.call_as(TOKEN, method, path, body).await
    }

    async fn call_as(&self, token: &str, method: &str, path: &str, body: &str) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(format!("/admin/v1{path}"))
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body.to_owned()));
        let response = self.router.clone().oneshot(request.expect("valid")).await;
        let (parts, body) = response.expect("infallible").into_parts();
        let body = to_bytes(body, 1 << 20).await.expect("a short body");
        Answer {
            status: parts.status,
            text: String::from_utf8_lossy(&body).into_owned(),
            body: serde_json::from_slice(&body).unwrap_or_default(),
        }
    }

    /// The same, which must be answered so.
    async fn done(&self, status: u16, method: &str, path: &str, body: &str) -> Value {
        let answer = self.call(method, path, body).await;
        assert_eq!(
            answer.status.as_u16(),
            status,
            "{method} {path}: {}",
            answer.text
        );
        answer.body
    }

    fn sql(&self, sql: &str) -> String {
        let done = self.database.sql(sql);
        done.unwrap_or_else(|error| panic!("{sql}: {error:#}"))
    }

    /// The user's path and key.
    async fn user(&self, name: &str) -> (String, String) {
        let body = format!(r#"{{"username": "{name}"}}"#);
        let created = self.done(201, "POST", "/users", &body).await;
        let key = created["api_key"].as_str().expect("a key").to_owned();
        (format!("/users/{}", created["user_id"]), key)
    }

    /// A token of that name and role.
    async fn token(&self, name: &str, role: &str) -> String {
        let body = format!(r#"{{"name": "{name}", "role": "{role}"}}"#);
        let created = self.done(201, "POST", "/tokens", &body).await;
        created["secret"].as_str().expect("a token").to_owned()
    }
}
