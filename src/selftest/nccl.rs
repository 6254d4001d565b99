//! NCCL with one rank: the library is found and joined, sums alongside the device's work, in a graph too, and can be left.

use super::Check;
use crate::error::Result;
use crate::gpu::{Gpu, Real};
use crate::rng::Rng;
use crate::tensor::Tensor;

/// Numbers of a piece.
const LEN: usize = 100_003;

/// How often the sums run as one piece of the device's work: at first directly, then as a new graph, then by updating it.
const PIECES: usize = 4;

/// The mean over one rank is what was there, to the bit, and so is its only part; `None` if this device cannot sum with others. The
/// device must not be a fenced one: its work is recorded.
///
/// # Errors
/// NCCL failed.
pub fn check(gpu: &Gpu) -> Result<Option<Check>> {
    if gpu.can_join().is_err() {
        return Ok(None);
    }
    let id = gpu.new_id()?;
    let nccl = gpu.join(&id, 0, 1)?;
    let rng = Rng::new(7);
    let numbers = Tensor::new(&[LEN], (0..LEN as u64).map(|i| rng.normal(i)).collect());
    let (mut rows, mut off) = (0, 0);
    for real in [Real::F32, gpu.real()] {
        let made = numbers.to_gpu(gpu, "a sum's numbers", real);
        let (before, first) = (made.to_host(), made.to_host().to_gpu(gpu, "numbers", real));
        let none = Tensor::zeros(&[LEN]).to_gpu(gpu, "zeros", real);
        let sums = || {
            made.copy_from(0, &first);
            // SAFETY: the tensor has LEN numbers, which live until they are read below, behind `end`.
            unsafe {
                nccl.begin_mean(made.address(), LEN, real)
                    .and_then(|()| nccl.begin_mean_part(made.address(), LEN, real))
                    .and_then(|()| nccl.begin_gather(made.address(), LEN, real))
            }
            .and_then(|()| nccl.end())
        };
        for piece in 0..=PIECES {
            made.copy_from(0, &none);
            match piece {
                0 => sums()?,
                _ => gpu.as_one(&[LEN], sums)?,
            }
            let after = made.to_host();
            off += before.data().iter().zip(after.data()).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
            rows += 3;
        }
    }
    nccl.abort();
    gpu.wait();
    // SAFETY: it is given no numbers.
    off += usize::from(unsafe { nccl.begin_mean(0, 0, Real::F32) }.is_ok());
    let (name, output) = ("nccl".into(), "means over one rank and their parts, in graphs too".into());
    Ok(Some(Check { name, real: gpu.real(), rows, output, error: off as f64, allowed: 0.0 }))
}
