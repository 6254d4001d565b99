//! What a tape knows of an op besides its backward.

/// An op's name, after its file, and its arithmetic. An op that only moves numbers is given by its name alone.
#[derive(Clone, Copy, Debug)]
pub struct Op {
    pub(super) name: &'static str,
    pub(super) flops: Flops,
}

/// An op's multiplications and additions.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flops {
    /// Of the forward.
    pub forward: usize,
    /// Of the backward, or of its first part.
    pub backward: usize,
    /// Of the part of the backward that reads the first input ([`Tape::record_read`](super::Tape::record_read)).
    pub reading: usize,
}

impl Op {
    /// An op made of arithmetic.
    pub fn of(name: &'static str, flops: Flops) -> Op {
        Op { name, flops }
    }
}

impl From<&'static str> for Op {
    fn from(name: &'static str) -> Op {
        Op::of(name, Flops::default())
    }
}
