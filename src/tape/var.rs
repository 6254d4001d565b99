//! Names of values on a tape.

use std::sync::atomic::{AtomicU64, Ordering};

/// A value on a tape; no other tape accepts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Var {
    pub(super) at: usize,
    tape: u64,
}

/// Distinguishes a tape from all others of the process.
#[derive(Clone, Copy)]
pub(super) struct TapeId(u64);

impl Default for TapeId {
    fn default() -> TapeId {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        TapeId(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl TapeId {
    /// The value of this tape's node `at`.
    pub fn var(self, at: usize) -> Var {
        Var { at, tape: self.0 }
    }

    /// Index among this tape's nodes. Panics on another tape's variable, which would name an arbitrary value here.
    pub fn place(self, x: Var) -> usize {
        assert_eq!(x.tape, self.0, "tape: a variable of another one");
        x.at
    }
}
