//! Squared error, summed over genes, mean over cells (SCALE v1, eq. 14).
//!
//! ```text
//!   forward    L        = 1/M sum_m sum_g (y[m,g] - x[m,g])^2
//!   backward   dy[m,g]  = dL 2/M (y[m,g] - x[m,g])         dx = -dy          =
//!   tensors    y, x, dy, dx [.., G], leading axes folded to M     L, dL [1]
//!   bound by   memory: forward moves 2 M G, backward 3 M G numbers
//!   repeatable yes: sums are f32 within a piece, f64 over pieces and blocks, in order
//! ```

use crate::gpu::{Buffer, Grid, PROCESSORS, args};
use crate::ops::blocks;
use crate::ops::loss;
use crate::ops::vector::squared_distance;
use crate::tape::{Tape, Var};
use crate::tensor::{Tensor, agree};

impl Tape {
    /// Squared distance of rows, mean over rows: y and x `[.., G]` to `[1]`.
    pub fn squared_error(&mut self, y: Var, x: Var) -> Var {
        let (ys, xs) = (self.value(y).clone(), self.value(x).clone());
        let loss = forward(&ys, &xs);
        let (y_needs, x_needs) = (self.needs(y), self.needs(x));
        self.record("squared_error", &[y, x], loss, move |d| backward(d, &ys, &xs, [y_needs, x_needs]).into())
    }
}

/// Numbers summed in f32 before f64 takes over.
const PIECE: usize = 512;

/// The loss `[1]`.
///
/// # Panics
/// If there are no numbers, of which there is no mean.
pub fn forward(y: &Tensor, x: &Tensor) -> Tensor {
    assert!(!y.is_empty(), "squared_error: no mean of {:?}", y.shape());
    if agree("squared_error", &[(y, y.shape()), (x, y.shape())], &[]).is_some() {
        return forward_on(y, x);
    }
    let (ys, xs) = (y.data(), x.data());
    let parts = blocks::map(ys.len().div_ceil(blocks::GRAIN), |i| {
        let block = i * blocks::GRAIN..ys.len().min((i + 1) * blocks::GRAIN);
        let pieces = ys[block.clone()].chunks(PIECE).zip(xs[block].chunks(PIECE));
        pieces.map(|(y, x)| f64::from(squared_distance(y, x))).sum::<f64>()
    });
    Tensor::scalar((parts.iter().sum::<f64>() / y.rows() as f64) as f32)
}

/// dy and dx, each if wanted, from dL `[1]`.
pub fn backward(d: &Tensor, y: &Tensor, x: &Tensor, wanted: [bool; 2]) -> [Option<Tensor>; 2] {
    if agree("squared_error", &[(y, y.shape()), (x, y.shape())], &[(d, &[1])]).is_some() {
        let [dy, dx] = wanted.map(|wanted| wanted.then(|| y.like("squared_error dy")));
        launch_backward([dy.as_ref(), dx.as_ref()], d, y, x, 2.0 / y.rows() as f32);
        return [dy, dx];
    }
    let scale = 2.0 * d.item() / y.rows() as f32;
    let by = |scale: f32| {
        let slope = blocks::pairs(y.data(), x.data(), |y, x| scale * (y - x));
        Tensor::new(y.shape(), slope)
    };
    [wanted[0].then(|| by(scale)), wanted[1].then(|| by(-scale))]
}

fn forward_on(y: &Tensor, x: &Tensor) -> Tensor {
    // As many blocks as run at once, six per multiprocessor: each strides over its share.
    let count = y.len().div_ceil(2048).min(6 * PROCESSORS);
    let parts = y.device().buffer("squared_error parts", 8 * count);
    launch_forward(&parts, y, x, count);
    loss::total("squared_error loss", &parts, count, 1.0 / y.rows() as f32)
}

fn launch_forward(parts: &Buffer, y: &Tensor, x: &Tensor, count: usize) {
    let args = args![parts, y, x, y.len() as u64];
    // SAFETY: a sum for each of `count` blocks; y and x have one shape.
    unsafe { y.device().launch("squared_error", "squared_error_forward", Grid::new(count, 256), &args) };
}

fn launch_backward(dy: [Option<&Tensor>; 2], d: &Tensor, y: &Tensor, x: &Tensor, scale: f32) {
    let [dy, dx] = dy;
    let args = args![dy, dx, d, y, x, scale, y.len() as u64];
    let grid = Grid::eights(y.len());
    // SAFETY: what is written has the shape of y, as x has; d is one number.
    unsafe { d.device().launch("squared_error", "squared_error_backward", grid, &args) };
}

/// The definition, in plain f64.
pub mod reference {
    /// L.
    pub fn forward(y: &[f64], x: &[f64], width: usize) -> f64 {
        y.iter().zip(x).map(|(y, x)| (y - x).powi(2)).sum::<f64>() / (y.len() / width) as f64
    }

    /// dy; dx is its negative.
    pub fn backward(d: f64, y: &[f64], x: &[f64], width: usize) -> Vec<f64> {
        let rows = (y.len() / width) as f64;
        y.iter().zip(x).map(|(y, x)| 2.0 * d * (y - x) / rows).collect()
    }
}
