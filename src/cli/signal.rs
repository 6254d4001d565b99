//! What Ctrl-C and SIGTERM do when they do not simply end the program.

use std::process::exit;
use std::time::{Duration, Instant};

use super::words;
use crate::error::{Error, Result};
use crate::progress::Progress;

/// The exit code of a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// Signals closer together than this are one wish: `timeout` sends one to the program and one to its group.
const ONE_WISH: Duration = Duration::from_secs(1);

/// The first signal stops the work, with a message that says what happens next; a later one ends the program at once.
pub fn stop(progress: &Progress, what: &'static str) -> Result<()> {
    let (progress, mut first) = (progress.clone(), None::<Instant>);
    handle(move || match first {
        None => {
            progress.stop();
            first = Some(Instant::now());
            words::say(format_args!("stopping {what}; press Ctrl-C again to stop at once"));
        }
        Some(first) if first.elapsed() < ONE_WISH => {}
        Some(_) => exit(INTERRUPTED),
    })
}

/// Ends the program if the work was stopped: it says what it left, but a signal has ended it.
pub fn ended<T>(work: Result<T>) -> Result<T> {
    if let Err(Error::Stopped(what)) = &work {
        words::say(words::in_options(what));
        exit(INTERRUPTED);
    }
    work
}

/// Ends the program on a signal, after printing `what`.
pub fn tell(what: &'static str) -> Result<()> {
    handle(move || {
        words::say(what);
        exit(INTERRUPTED);
    })
}

fn handle(what: impl FnMut() + 'static + Send) -> Result<()> {
    // ctrlc sets a handler for a hang-up too, which nohup has us ignore.
    let outlives_its_terminal = hang_ups_are_ignored();
    match ctrlc::set_handler(what) {
        // A test or a program that embeds us may have its own handler.
        Ok(()) | Err(ctrlc::Error::MultipleHandlers) => {}
        Err(e) => return Err(Error::Stopped(format!("cannot set up the signal handler: {e}"))),
    }
    if outlives_its_terminal {
        // SAFETY: they are ignored again, as they were before.
        unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
    }
    Ok(())
}

fn hang_ups_are_ignored() -> bool {
    // SAFETY: plain numbers, all of which may be zero; what is set is asked for, and nothing is set.
    unsafe {
        let mut set: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGHUP, std::ptr::null(), &mut set) == 0 && set.sa_sigaction == libc::SIG_IGN
    }
}
