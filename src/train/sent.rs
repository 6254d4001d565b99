//! Numbers on their way to the host from where a step leaves them.

use crate::gpu::{Gpu, Pinned};
use crate::tensor::Tensor;

/// On a device copies are queued behind its work, and nobody waits until the numbers are read.
pub enum Sent {
    /// Here at once: from the host, or from a device that was waited for.
    Here(Vec<f32>),
    /// Memory that a device writes in its own time.
    Coming(Pinned),
}

/// Nothing, and room for nothing.
impl Default for Sent {
    fn default() -> Sent {
        Sent::Here(Vec::new())
    }
}

impl Sent {
    /// Room for `len` numbers that are on `gpu` or on the host; this one is reused if it fits. What was sent before has been read.
    pub fn room(self, len: usize, gpu: Option<&Gpu>) -> Sent {
        match (self, gpu) {
            (Sent::Here(numbers), _) if numbers.len() == len => Sent::Here(numbers),
            (Sent::Coming(pinned), Some(_)) if pinned.bytes() == 4 * len => Sent::Coming(pinned),
            // If the system cannot lock more pages, the device is waited for.
            (_, gpu) => match gpu.and_then(|gpu| gpu.try_pinned(4 * len).ok()) {
                Some(pinned) => Sent::Coming(pinned),
                None => Sent::Here(vec![0.0; len]),
            },
        }
    }

    /// Sends the numbers of `x` to positions `at` onwards.
    pub fn put(&mut self, at: usize, x: &Tensor) {
        match self {
            Sent::Here(numbers) => numbers[at..at + x.len()].copy_from_slice(x.to_host().data()),
            Sent::Coming(pinned) => x.send_to(pinned, at),
        }
    }

    /// All numbers; waits until they have arrived.
    pub fn numbers(&mut self) -> &[f32] {
        match self {
            Sent::Here(numbers) => numbers,
            Sent::Coming(pinned) => pinned.numbers(),
        }
    }
}
