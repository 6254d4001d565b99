//! NCCL with one rank: the library is found, joined, sums beside the device's work, and can be left.

use super::Check;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Real};
use crate::rng::Rng;
use crate::tensor::Tensor;

/// Numbers of a piece.
const LEN: usize = 100_003;

/// The mean over one rank is what was there, to the bit, and so is its only part; none where this device cannot sum with others.
pub fn check(gpu: &Gpu) -> Result<Option<Check>> {
    if gpu.can_join().is_err() {
        return Ok(None);
    }
    let id = gpu.new_id().map_err(Error::Device)?;
    let nccl = gpu.join(&id, 0, 1).map_err(Error::Device)?;
    let rng = Rng::new(7);
    let numbers = Tensor::new(&[LEN], (0..LEN as u64).map(|i| rng.normal(i)).collect());
    let (mut rows, mut off) = (0, 0);
    for real in [Real::F32, Real::Bf16] {
        let made = numbers.to_gpu(gpu, "a sum's numbers", real);
        let before = made.to_host();
        for _ in 0..2 {
            // SAFETY: so many numbers, which live until they are read below, behind `end`.
            unsafe {
                nccl.begin_mean(made.address(), LEN, real)
                    .and_then(|()| nccl.begin_mean_part(made.address(), LEN, real))
                    .and_then(|()| nccl.begin_gather(made.address(), LEN, real))
            }
            .map_err(Error::Device)?;
        }
        nccl.end().map_err(Error::Device)?;
        let after = made.to_host();
        off += before.data().iter().zip(after.data()).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
        rows += 6;
    }
    nccl.abort();
    gpu.wait();
    let (name, output) = ("nccl".into(), "means over one rank and their parts".into());
    Ok(Some(Check { name, real: gpu.real(), rows, output, error: off as f64, allowed: 0.0 }))
}
