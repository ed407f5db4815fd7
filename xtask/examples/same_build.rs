//! Does nothing. Named in every build of `cargo xtask`, it makes cargo count the features that dev-dependencies ask for.
//!
//! Cargo compiles a crate again when another selection of targets asks for other features of it, or of anything below
//! it. Tests have dev-dependencies, programs have none, so without this the demo and the tests would each compile
//! llama.cpp and candle for themselves.

fn main() {}
