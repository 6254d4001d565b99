//! The last pass of a loss on a device: one number from the partial sums of blocks.
//!
//! ```text
//!   forward    L = scale sum_p parts[p]
//!   tensors    parts [P] f64     L [1] f32
//!   bound by   its launch
//!   repeatable yes: parts are summed in order
//! ```

use crate::gpu::{Buffer, Grid, Real, args};
use crate::tensor::Tensor;

/// L `[1]` from `count` parts; `what` names it in reports of memory.
///
/// # Panics
/// If there are fewer.
pub fn total(what: &'static str, parts: &Buffer, count: usize, scale: f32) -> Tensor {
    assert!(count <= parts.bytes() / size_of::<f64>(), "{what}: {count} parts in {} bytes", parts.bytes());
    let loss = Tensor::on(parts.gpu(), what, &[1], Real::F32);
    launch_total(&loss, parts, count, scale);
    loss
}

fn launch_total(loss: &Tensor, parts: &Buffer, count: usize, scale: f32) {
    let args = args![loss, parts, count, scale];
    // SAFETY: the loss is one number, and there are `count` parts.
    unsafe { parts.gpu().launch("loss", "loss_total", Grid::new(1, 1024), &args) };
}
