//! The command line: one file a command.

pub mod preprocess;
pub mod split;
