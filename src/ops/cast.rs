//! Converts numbers between storages: gradients that ranks send. (The tape stores a gradient as its value by the same kernels.)
//!
//! ```text
//!   forward    y[i] = x[i], rounded to the nearest, ties to even, if y is bf16
//!   bound by   memory: 6 bytes per element between f32 and bf16
//! ```

use crate::tensor::Tensor;

/// Writes x to y, which holds as many numbers in the other storage.
///
/// # Panics
/// If it does not, or they are not on one device.
pub fn cast_into(y: &Tensor, x: &Tensor) {
    y.cast_from(x);
}
