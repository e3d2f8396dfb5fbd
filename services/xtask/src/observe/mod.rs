//! What watches the stack.

pub mod collector;
