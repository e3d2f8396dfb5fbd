//! What watches the product: it must see all of it, and must not hurt it. Run by `cargo xtask test`.

mod collector_down;
mod expressions;
mod kube_state;
mod prometheus;
mod settings;
mod stack;
