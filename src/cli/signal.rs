//! What Ctrl-C and SIGTERM do when they do not simply end the program.

use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// The exit code of a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// Signals closer together than this are one wish: `timeout` sends one to the program and one to its group.
const ONE_WISH: Duration = Duration::from_secs(1);

/// A flag that the first signal sets, with a message that says what happens next; a later one ends the program at once.
pub fn stop(what: &'static str) -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let (flag, mut first) = (stop.clone(), None::<Instant>);
    handle(move || match first {
        None => {
            flag.store(true, Ordering::Relaxed);
            first = Some(Instant::now());
            eprintln!("stopping {what}; press Ctrl-C again to stop at once");
        }
        Some(first) if first.elapsed() < ONE_WISH => {}
        Some(_) => exit(INTERRUPTED),
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
