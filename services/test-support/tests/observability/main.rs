//! What operators see of running processes, as real tools take it in.

mod expressions;
mod prometheus;
mod stack;
