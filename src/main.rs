//! The `scale-engine` program: parse, run, exit code.

use std::panic;
use std::process::{self, ExitCode};

use clap::Parser;
use scale_engine::cli::{self, Cli, words};
use scale_engine::error::Error;
use scale_engine::gpu;

fn main() -> ExitCode {
    // SAFETY: no other thread runs yet.
    unsafe { gpu::keep_nccl_buffers_private() };
    fail_at_the_limit_of_files();
    fail_with_the_output();
    match cli::run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            words::say(format_args!("error: {}", words::told(&error)));
            // 2: the command line was wrong; 1: the work failed.
            ExitCode::from(if matches!(error, Error::Setting { .. }) { 2 } else { 1 })
        }
    }
}

/// A full disk behind stdout is an error like any other, which `println!` can only report by a panic. A reader that has seen enough
/// (`scale-engine inspect F | head`) ends the program quietly, with the code of other tools; but not while it works: a training
/// outlives the terminal it writes to.
fn fail_with_the_output() {
    let other = panic::take_hook();
    panic::set_hook(Box::new(move |told| {
        let what = told.payload().downcast_ref::<String>().map_or("", String::as_str);
        if what.starts_with("failed printing to stdout") {
            if what.contains("Broken pipe") {
                process::exit(128 + libc::SIGPIPE);
            }
            words::say(format_args!("error: {what}"));
            process::exit(1);
        }
        other(told);
    }));
}

/// A file that outgrows the limit of its user (`ulimit -f`) is an error like any other, not a signal that ends the program.
fn fail_at_the_limit_of_files() {
    // SAFETY: no other thread runs yet; writes then return EFBIG.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}
