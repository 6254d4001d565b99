//! What a value on a tape is called.

use std::sync::atomic::{AtomicU64, Ordering};

/// A value on a tape; no other tape takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Var {
    pub(super) at: usize,
    tape: u64,
}

/// What tells a tape from all others of the process.
#[derive(Clone, Copy)]
pub(super) struct Number(u64);

impl Default for Number {
    fn default() -> Number {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Number(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl Number {
    /// The value of this tape's node `at`.
    pub fn var(self, at: usize) -> Var {
        Var { at, tape: self.0 }
    }

    /// Where among this tape's nodes. Panics on another's variable, which would name any value here.
    pub fn place(self, x: Var) -> usize {
        assert_eq!(x.tape, self.0, "tape: a variable of another one");
        x.at
    }
}
