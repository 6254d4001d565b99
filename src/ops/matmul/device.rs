//! The products of a linear map on a device.

use crate::gpu::{Gpu, Real};
use crate::ops::column_sums::column_sums_to;
use crate::ops::product::{Plus, Side, multiply};
use crate::tape::{Place, Sink};
use crate::tensor::Tensor;

/// y `[.., J]`.
pub fn forward(
    gpu: &Gpu,
    shape: &[usize],
    residual: Option<&Tensor>,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
) -> Tensor {
    let y = Tensor::on(gpu, "matmul y", shape, x.real());
    multiply("matmul", &y, Side::Rows(x), Side::Columns(w), Plus { bias, residual, ..Plus::default() });
    y
}

/// dx `[.., I]`.
pub fn backward_x(gpu: &Gpu, dy: &Tensor, shape: &[usize], w: &Tensor) -> Tensor {
    let dx = Tensor::on(gpu, "matmul dx", shape, dy.real());
    multiply("matmul", &dx, Side::Rows(dy), Side::Rows(w), Plus::default());
    dx
}

/// dw `[J, I]` and, if wanted, db `[J]`, both f32; `None` for what was written to its place.
pub fn backward_w(
    gpu: &Gpu,
    dy: &Tensor,
    x: &Tensor,
    w: &Tensor,
    with_bias: bool,
    [sink, sink_of_bias]: [Option<&Sink>; 2],
) -> (Option<Tensor>, Option<Tensor>) {
    let dw = Sink::place(sink, || Tensor::on(gpu, "matmul dw", w.shape(), Real::F32));
    // A product writes its sums and cannot add to them.
    let new_db = || Tensor::on(gpu, "matmul db", &[dy.width()], Real::F32);
    let db = with_bias.then(|| Sink::place_once(sink_of_bias, new_db));
    let sums = db.as_ref().map(|db| &db.to);
    let plus = Plus { more: dw.more, sums, ..Plus::default() };
    let summed = multiply("matmul", &dw.to, Side::Columns(dy), Side::Rows(x), plus);
    if let (false, Some(sums)) = (summed, sums) {
        column_sums_to(sums, dy);
    }
    (dw.gradient(), db.and_then(Place::gradient))
}
