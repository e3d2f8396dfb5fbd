//! What the OpenAPI documents promise, held against the services by Schemathesis. `cargo xtask test` installs it where
//! Python is, and runs what is ignored without it; alone: `cargo xtask test --test schemathesis --
//! --ignored`.

mod server_a;
mod server_b;
