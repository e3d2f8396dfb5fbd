//! What watches the product must not hurt it. Run by `cargo xtask test`.

mod collector_down;
mod settings;
