//! What becomes of a device's failure: an op returns a value, not a `Result`, and the device can fail in any op.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::error::{Error, Result};

thread_local! {
    /// How many guards this thread is inside.
    static GUARDS: Cell<usize> = const { Cell::new(0) };
}

/// Runs work that may use a device and turns the device's failure into an error. Other panics propagate, and so does a failure on a
/// thread that the work starts, unless that thread has a guard of its own. Needs panics that unwind.
///
/// # Errors
/// The work's own; [`Error::Device`] if the device failed or has no room.
pub fn guard<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    GUARDS.set(GUARDS.get() + 1);
    // After an error, what the work borrowed is not used again or is completely overwritten.
    let done = catch_unwind(AssertUnwindSafe(work));
    GUARDS.set(GUARDS.get() - 1);
    done.unwrap_or_else(|panic| match panic.downcast::<Error>() {
        Ok(error) => Err(*error),
        Err(panic) => resume_unwind(panic),
    })
}

/// Unwinds silently to the nearest [`guard`], which returns the error. Outside every guard nobody would report it, so there it is
/// an ordinary panic.
pub(crate) fn fail(error: Error) -> ! {
    match GUARDS.get() {
        0 => panic!("{error} (inside gpu::guard this is an error)"),
        _ => resume_unwind(Box::new(error)),
    }
}

pub(super) fn or_fail<T>(result: std::result::Result<T, String>) -> T {
    result.unwrap_or_else(|what| fail(Error::Device(what)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::gpu::{Chip, Gpu, Real};

    /// Asks for more than any machine has.
    fn fail() {
        // SAFETY: no kernel is launched.
        let gpu = unsafe { Gpu::emulated(Path::new("none"), Real::F32, 1, Chip::Hopper) };
        drop(gpu.buffer("scores", 1 << 60));
    }

    #[test]
    fn a_device_that_fails_is_an_error_inside_a_guard_and_a_panic_with_words_outside() {
        let inside = || {
            let inner = guard(|| {
                fail();
                Ok(())
            });
            assert!(inner.is_err());
            fail();
            Ok(())
        };
        let told = guard(inside).expect_err("no room");
        assert!(matches!(&told, Error::Device(what) if what.contains("no room for scores")), "{told}");
        let panic = catch_unwind(fail).expect_err("no room");
        let told = panic.downcast_ref::<String>().expect("words, as the panic hook prints them");
        assert!(told.contains("no room for scores") && told.contains("gpu::guard"), "{told}");
    }
}
