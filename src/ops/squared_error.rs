//! Squared error, summed over genes, mean over cells (SCALE v1, eq. 14).
//!
//!   forward    L        = 1/M sum_m sum_g (y[m,g] - x[m,g])^2
//!   backward   dy[m,g]  = dL 2/M (y[m,g] - x[m,g])         dx = -dy          =
//!   tensors    y, x, dy, dx [.., G], leading axes folded to M     L [1]
//!   bound by   memory: forward moves 2 M G, backward 3 M G numbers
//!   repeatable yes: pieces are summed in f32, pieces and blocks in f64, in order

use crate::ops::blocks;
use crate::ops::vector::squared_distance;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

impl Tape {
    /// Squared distance of rows, mean over rows: y and x `[.., G]` to `[1]`.
    pub fn squared_error(&mut self, y: Var, x: Var) -> Var {
        let (ys, xs) = (self.value(y).clone(), self.value(x).clone());
        let loss = forward(&ys, &xs);
        let (y_needs, x_needs) = (self.needs(y), self.needs(x));
        self.record(&[y, x], loss, move |d| {
            let scale = 2.0 * d.item() / ys.rows() as f32;
            let by = |scale: f32| {
                let slope = blocks::pairs(ys.data(), xs.data(), |y, x| scale * (y - x));
                Tensor::new(ys.shape(), slope)
            };
            vec![y_needs.then(|| by(scale)), x_needs.then(|| by(-scale))]
        })
    }
}

/// Numbers summed in f32 before f64 takes over.
const PIECE: usize = 512;

/// The loss `[1]`.
pub fn forward(y: &Tensor, x: &Tensor) -> Tensor {
    assert!(y.shape() == x.shape() && !y.is_empty(), "squared_error: {:?} and {:?}", y.shape(), x.shape());
    let (ys, xs) = (y.data(), x.data());
    let parts = blocks::map(ys.len().div_ceil(blocks::GRAIN), |i| {
        let block = i * blocks::GRAIN..ys.len().min((i + 1) * blocks::GRAIN);
        let pieces = ys[block.clone()].chunks(PIECE).zip(xs[block].chunks(PIECE));
        pieces.map(|(y, x)| f64::from(squared_distance(y, x))).sum::<f64>()
    });
    Tensor::scalar((parts.iter().sum::<f64>() / y.rows() as f64) as f32)
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
