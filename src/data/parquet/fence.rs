//! A fence around the parquet crate: version 60.1 panics on some damaged pages, where it should return an error.
//!
//! Rust reports every panic on stderr before it can be caught. The hook that does so belongs to the whole process: it is
//! wrapped once by a hook that is silent inside the fence and calls the previous one elsewhere.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

use parquet::errors::{ParquetError, Result};

thread_local! {
    /// Whether this thread is inside a fence.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Calls into the crate, turning a panic into an error like its others.
pub(super) fn fenced<T>(call: impl FnOnce() -> Result<T>) -> Result<T> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            if !INSIDE.get() {
                before(panic);
            }
        }));
    });
    INSIDE.set(true);
    // After an error the reader is not used again.
    let done = catch_unwind(AssertUnwindSafe(call));
    INSIDE.set(false);
    done.unwrap_or_else(|panic| {
        let what = format!("damaged ({}): copy or download the file again", words(&*panic));
        Err(ParquetError::General(what))
    })
}

/// The message of a panic.
fn words(panic: &(dyn Any + Send)) -> &str {
    let owned = || panic.downcast_ref::<String>().map(String::as_str);
    panic.downcast_ref::<&str>().copied().or_else(owned).unwrap_or("no reason given")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_inside_is_an_error_and_outside_a_panic() {
        let told = fenced(|| -> Result<u8> { panic!("page {}", 3) }).expect_err("an error").to_string();
        assert!(told.contains("page 3") && told.contains("again"), "{told}");
        assert_eq!(fenced(|| Ok(1)).expect("no panic"), 1);
        assert!(!INSIDE.get());
    }
}
