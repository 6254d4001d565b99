//! A fence around the parquet crate: 60.1 panics on some damaged pages, where an error would be right.
//!
//! Rust tells of every panic on stderr before anybody can catch it. The hook that does so is the process's: it is wrapped once by one
//! that is silent inside the fence and calls the one before elsewhere.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

use parquet::errors::{ParquetError, Result};

thread_local! {
    /// Whether this thread is inside a fence.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// One call into the crate: its panic is an error like its others.
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
    // After an error nothing asks the reader again.
    let done = catch_unwind(AssertUnwindSafe(call));
    INSIDE.set(false);
    done.unwrap_or_else(|panic| {
        let what = format!("damaged ({}): copy or download the file again", words(&*panic));
        Err(ParquetError::General(what))
    })
}

/// What a panic says.
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
