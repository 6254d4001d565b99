//! What this machine can do at most: copy memory, and multiply matrices.

use rayon::prelude::*;
use serde::Serialize;

use crate::gpu::{Gpu, Took};
use crate::ops::matmul;
use crate::rng::Rng;
use crate::tensor::Tensor;

/// What a device can keep up, by its own clock: the median of 20 runs behind each other; a CPU's fastest of 5, which other work
/// disturbs least.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Ceilings {
    /// Bytes read and written per second, in GB, by a copy far larger than the caches.
    pub copy_gb_per_s: f64,
    /// Multiplications and additions per second, in 1e12, of the library's product of square matrices in the device's storage.
    pub matmul_tflop_per_s: f64,
}

const RUNS: usize = 20;
const TRIES: usize = 5;
/// Numbers that a thread copies in a row.
const PIECE: usize = 1 << 18;

impl Ceilings {
    /// Measures both where a step would run; takes a second or two.
    pub fn measure(gpu: Option<&Gpu>) -> Ceilings {
        let (copied, edge) = match gpu {
            None => (1 << 26, 2048),
            // An emulated device, whose memory is unlimited: its ceilings say nothing and should cost nothing.
            Some(gpu) if gpu.memory().0 == u64::MAX => (1 << 16, 16),
            Some(_) => (1 << 28, 8192),
        };
        Ceilings {
            copy_gb_per_s: 8.0 * copied as f64 / copy(gpu, copied) / 1e9,
            matmul_tflop_per_s: 2.0 * (edge as f64).powi(3) / multiply(gpu, edge) / 1e12,
        }
    }
}

/// Seconds of one run; one more comes first and warms up.
fn seconds(gpu: Option<&Gpu>, mut work: impl FnMut()) -> f64 {
    work();
    let runs = if gpu.is_some() { RUNS } else { TRIES };
    // All are queued before the first is read: what the host does between two does not count.
    let took: Vec<Took> = (0..runs).map(|_| Took::of(gpu, &mut work)).collect();
    let mut seconds: Vec<f64> = took.into_iter().map(Took::seconds).collect();
    seconds.sort_by(f64::total_cmp);
    if gpu.is_some() { seconds[runs / 2] } else { seconds[0] }
}

fn copy(gpu: Option<&Gpu>, numbers: usize) -> f64 {
    if let Some(gpu) = gpu {
        let [to, from] = ["a copy", "what is copied"].map(|what| gpu.buffer(what, 4 * numbers));
        return seconds(Some(gpu), || to.copy_from(0, &from, 0, 4 * numbers));
    }
    let from: Vec<f32> = (0..numbers).map(|i| i as f32).collect();
    let mut to = vec![0.0; numbers];
    seconds(None, || {
        to.par_chunks_mut(PIECE).zip(from.par_chunks(PIECE)).for_each(|(to, from)| to.copy_from_slice(from));
    })
}

fn multiply(gpu: Option<&Gpu>, edge: usize) -> f64 {
    let rng = Rng::new(2);
    // A small pattern repeated: as hard to multiply, quick to draw.
    let drawn: Vec<f32> = (0..1 << 16).map(|i| rng.normal(i)).collect();
    let numbers = drawn.iter().copied().cycle().take(edge * edge).collect();
    let x = Tensor::new(&[edge, edge], numbers);
    let x = gpu.map_or(x.clone(), |gpu| x.to_gpu(gpu, "a matrix", gpu.real()));
    seconds(gpu, || drop(matmul::forward(None, &x, &x, None)))
}
