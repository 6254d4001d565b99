//! The products of a linear map on a device: all by `Gpu::product`.

use crate::gpu::{Gpu, Product, Real};
use crate::ops::column_sums::column_sums_to;
use crate::tape::Sink;
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
    let y = Tensor::on(gpu, "linear y", shape, x.real());
    let size = [x.rows(), y.width(), x.width()];
    let (bias, plus) = (bias.map(Tensor::operand), residual.map(Tensor::operand));
    let product = Product { bias, plus, ..Product::new(y.operand(), x.operand(), w.operand().t(), size) };
    // SAFETY: the shapes were asserted, and y is fresh.
    unsafe { gpu.product(&product) };
    y
}

/// dx `[.., I]`.
pub fn backward_x(gpu: &Gpu, dy: &Tensor, shape: &[usize], w: &Tensor) -> Tensor {
    let dx = Tensor::on(gpu, "linear dx", shape, dy.real());
    let product = Product::new(dx.operand(), dy.operand(), w.operand(), [dy.rows(), dx.width(), dy.width()]);
    // SAFETY: the tape gives dy the shape of y; dx is fresh and shaped as x.
    unsafe { gpu.product(&product) };
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
    let fresh = || (Tensor::on(gpu, "linear dw", w.shape(), Real::F32), false);
    let (dw, more) = sink.map_or_else(fresh, Sink::open);
    // A product writes its sums and cannot add to them.
    let place = sink_of_bias.and_then(Sink::free);
    let fresh_db = || Tensor::on(gpu, "linear db", &[dy.width()], Real::F32);
    let db = with_bias.then(|| place.clone().unwrap_or_else(fresh_db));
    let product =
        Product::new(dw.operand(), dy.operand().t(), x.operand(), [dy.width(), x.width(), x.rows()]);
    let product = Product { more, sums: db.as_ref().map(Tensor::address), ..product };
    // SAFETY: dw and db are fresh, or the places of the gradients, which nobody reads now; the tape gives dy the shape of y.
    let summed = unsafe { gpu.product(&product) };
    if let (false, Some(db)) = (summed, &db) {
        column_sums_to(db, dy);
    }
    (sink.is_none().then_some(dw), db.filter(|_| place.is_none()))
}
