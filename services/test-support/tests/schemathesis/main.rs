//! What the OpenAPI documents promise, held against the services by Schemathesis. By name alone so far:
//! `cargo xtask test schemathesis -- --ignored`, which installs it where Python is.

mod server_a;
mod server_b;
