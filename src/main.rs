//! The `scale-engine` program: parse, run, exit code.

use std::process::ExitCode;

use clap::Parser;
use scale_engine::cli::{self, Cli};
use scale_engine::error::Error;

fn main() -> ExitCode {
    match cli::run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            // 2: the words were wrong; 1: the work failed.
            ExitCode::from(if matches!(error, Error::Setting { .. }) { 2 } else { 1 })
        }
    }
}
