//! Converts numbers between storages: a gradient that arrives as f32 where the device's own storage is needed, and back.
//!
//! ```text
//!   forward    y[i] = x[i], rounded to the nearest, ties to even, if y is bf16
//!   bound by   memory: 6 bytes per element between f32 and bf16
//! ```

use crate::gpu::{Gpu, Grid, Real};
use crate::tensor::Tensor;

/// x stored as `real`; x itself if it already is, or if it is on the host, which stores only f32.
pub fn cast(x: &Tensor, real: Real) -> Tensor {
    let Some(gpu) = x.gpu().filter(|_| x.real() != real) else { return x.clone() };
    let y = Tensor::on(gpu, "cast y", x.shape(), real);
    launch(gpu, &y, x);
    y
}

/// Writes x to y, which holds as many numbers in the other storage; both are on one device.
pub fn cast_into(y: &Tensor, x: &Tensor) {
    assert!(y.len() == x.len() && y.real() != x.real(), "cast: {:?} into {:?}", x.shape(), y.shape());
    launch(x.device(), y, x);
}

fn launch(gpu: &Gpu, y: &Tensor, x: &Tensor) {
    let kernel = if y.real() == Real::F32 { "cast_to_f32" } else { "cast_to_real" };
    assert!(gpu.real() == Real::Bf16, "cast: {:?} on a device that stores f32", [x.real(), y.real()]);
    let args = [y.into(), x.into(), (x.len() as u64).into()];
    // SAFETY: y holds as many numbers as x; one of the two is f32, the other bf16, which is the kernels' `real`.
    unsafe { gpu.launch("cast", kernel, Grid::elements(x.len().div_ceil(8)), &args) };
}
