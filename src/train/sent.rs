//! Numbers on their way from where a step leaves them to the host.

use crate::gpu::{Gpu, Pinned};
use crate::tensor::Tensor;

/// On a device copies are queued behind its work, and nobody waits before the numbers are read.
#[derive(Default)]
pub enum Sent {
    /// Nothing was sent yet.
    #[default]
    None,
    /// On the host they are there at once.
    Here(Vec<f32>),
    /// What a device writes by itself.
    Coming(Pinned),
}

impl Sent {
    /// A place for `len` numbers that lie on `gpu`, or on the host: this one, if it is one. What was sent before has been read.
    pub fn room(self, what: &str, len: usize, gpu: Option<&Gpu>) -> Sent {
        match (gpu, self) {
            (None, Sent::Here(mut numbers)) => {
                numbers.resize(len, 0.0);
                Sent::Here(numbers)
            }
            (None, _) => Sent::Here(vec![0.0; len]),
            (Some(_), Sent::Coming(pinned)) if pinned.bytes() == 4 * len => Sent::Coming(pinned),
            (Some(gpu), _) => Sent::Coming(gpu.pinned(what, 4 * len)),
        }
    }

    /// Sends the numbers of `x`, to number `at` and those behind it.
    pub fn put(&mut self, at: usize, x: &Tensor) {
        match self {
            Sent::None => panic!("sent: {:?} has no room", x.shape()),
            Sent::Here(numbers) => numbers[at..at + x.len()].copy_from_slice(x.data()),
            Sent::Coming(pinned) => x.send_to(pinned, at),
        }
    }

    /// All numbers; waits until they have come.
    pub fn numbers(&mut self) -> &[f32] {
        match self {
            Sent::None => &[],
            Sent::Here(numbers) => numbers,
            Sent::Coming(pinned) => pinned.numbers(),
        }
    }
}
