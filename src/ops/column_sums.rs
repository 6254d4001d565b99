//! Sums over the rows of a matrix: the gradient of a bias; of a gain, or a query, from its parts.
//!
//! ```text
//!   forward    y[j] = sum_m x[m,j], or of x[m,j]^2
//!   tensors    x [.., J]     y [J], f32 on a device too
//!   bound by   memory: reads M J numbers
//!   repeatable yes: parts of rows are summed in order, then part by part
//! ```

use crate::gpu::{Grid, PROCESSORS, Real, args};
use crate::ops::blocks;
use crate::tape::Sink;
use crate::tensor::{Tensor, agree};

/// Blocks of a first pass: two per multiprocessor, all running at once.
pub const BLOCKS: usize = 2 * PROCESSORS;

/// Blocks across a row of x, stored as activations are, if each takes `COLUMNS` (columns.cuh) of it.
pub fn groups(x: &Tensor) -> usize {
    x.width().div_ceil(32 * x.real().pack())
}

/// y `[J]` from x `[.., J]`.
pub fn column_sums(x: &Tensor) -> Tensor {
    match x.gpu() {
        Some(_) => total(&parts(x, false)),
        None => Tensor::new(&[x.width()], blocks::column_sums(x.data(), x.width())),
    }
}

/// The same as a gradient; `None` if it was written to its place.
pub fn gradient(x: &Tensor, sink: Option<&Sink>) -> Option<Tensor> {
    match x.gpu() {
        Some(_) => gradient_of(&parts(x, false), sink),
        None => Some(column_sums(x)),
    }
}

/// y `[J]`, f32, from x `[.., J]`, both on a device.
pub(crate) fn column_sums_to(y: &Tensor, x: &Tensor) {
    launch_total(y, &parts(x, false));
}

/// The same for squares.
pub fn column_squares(x: &Tensor) -> Tensor {
    match x.gpu() {
        Some(_) => total(&parts(x, true)),
        None => Tensor::new(&[x.width()], blocks::column_sums_of(x.data(), x.width(), |x| x * x)),
    }
}

fn parts(x: &Tensor, squared: bool) -> Tensor {
    let width = x.width();
    // A part of fewer than 64 rows would leave warps without a row.
    let most = (BLOCKS / groups(x)).clamp(1, x.rows().div_ceil(64).max(1));
    let height = x.rows().div_ceil(most).max(1);
    let parts = Tensor::on(x.device(), "column_sums parts", &[x.rows().div_ceil(height), width], Real::F32);
    launch_parts(&parts, x, height, squared);
    parts
}

/// y `[J]` from parts `[P, J]` f32 on a device.
pub fn total(parts: &Tensor) -> Tensor {
    let [count, width] = parts.dims("column_sums");
    if count == 1 {
        return parts.reshape(&[width]);
    }
    let y = Tensor::on(parts.device(), "column_sums y", &[width], Real::F32);
    launch_total(&y, parts);
    y
}

/// The same as a gradient; `None` if it was written to its place.
pub(crate) fn gradient_of(parts: &Tensor, sink: Option<&Sink>) -> Option<Tensor> {
    let y = Sink::place_once(sink, || total(parts));
    if y.in_sink {
        launch_total(&y.to, parts);
    }
    y.gradient()
}

fn launch_parts(parts: &Tensor, x: &Tensor, height: usize, squared: bool) {
    let (rows, width) = (x.rows(), x.width());
    let squared = usize::from(squared);
    let args = args![parts, x, rows, width, height, squared];
    let grid = Grid::plane(groups(x), parts.rows(), 512);
    agree("column_sums", &[(x, x.shape())], &[(parts, parts.shape())]);
    // SAFETY: one row of parts for each `height` rows of x, fewer for the last; x is in the device's storage.
    unsafe { parts.device().launch("column_sums", "column_sums_parts", grid, &args) };
}

fn launch_total(y: &Tensor, parts: &Tensor) {
    let [count, width] = parts.dims("column_sums");
    agree("column_sums", &[], &[(&y.reshape(&[width]), &[width]), (parts, parts.shape())]);
    let args = args![y, parts, count, width];
    // SAFETY: y holds `width` numbers, parts `count` times as many, all f32 on one device.
    unsafe {
        y.device().launch("column_sums", "column_sums_total", Grid::new(width.div_ceil(32), 1024), &args)
    };
}
