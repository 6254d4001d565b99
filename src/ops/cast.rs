//! Converts numbers between storages: gradients that ranks send. (The tape stores a gradient as its value by the same kernels.)
//!
//! ```text
//!   forward    y[i] = x[i], rounded to the nearest, ties to even, if y is bf16
//!   bound by   memory: 6 bytes per element between f32 and bf16
//! ```

use crate::gpu::{Grid, Real, args};
use crate::tensor::Tensor;

/// Writes x to y, which holds as many numbers in the other storage.
///
/// # Panics
/// If it does not, or they are not on one device.
pub fn cast_into(y: &Tensor, x: &Tensor) {
    let fits = y.len() == x.len() && y.real() != x.real() && y.is_on(x.gpu());
    assert!(fits, "cast: {x:?} into {y:?}");
    let (gpu, kernel) = (x.device(), if y.real() == Real::F32 { "cast_to_f32" } else { "cast_to_real" });
    let args = args![y, x, x.len() as u64];
    // SAFETY: y holds as many numbers as x; one of the two is f32, the other the device's `real`.
    unsafe { gpu.launch("cast", kernel, Grid::eights(x.len()), &args) };
}
