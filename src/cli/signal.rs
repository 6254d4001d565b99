//! What Ctrl-C and SIGTERM do when they do not simply end the program.

use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// The exit code of a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// A flag that the first signal sets, with a message that says what happens next; a second signal ends the program at once.
pub fn stop(what: &'static str) -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    handle(move || {
        if flag.swap(true, Ordering::Relaxed) {
            exit(INTERRUPTED);
        }
        eprintln!("stopping {what}; press Ctrl-C again to stop at once");
    })?;
    Ok(stop)
}

/// Ends the program on a signal, after printing `what`.
pub fn tell(what: &'static str) -> Result<()> {
    handle(move || {
        eprintln!("{what}");
        exit(INTERRUPTED);
    })
}

fn handle(what: impl FnMut() + 'static + Send) -> Result<()> {
    match ctrlc::set_handler(what) {
        // A test or a program that embeds us may have its own handler.
        Ok(()) | Err(ctrlc::Error::MultipleHandlers) => Ok(()),
        Err(e) => Err(Error::Stopped(format!("cannot set up the signal handler: {e}"))),
    }
}
