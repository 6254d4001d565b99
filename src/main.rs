//! The `scale-engine` program.

fn main() {}
