//! Layer normalisation over the last axis (Ba, Kiros & Hinton 2016, eq. 4).
//!
//! ```text
//!   forward    mean[m]  = mean_d x[m,d]       rstd[m] = 1 / sqrt(mean_d (x[m,d] - mean[m])^2 + eps)       eps = 1e-5
//!              n[m,d]   = (x[m,d] - mean[m]) rstd[m]
//!              y[m,d]   = n[m,d] w[d] + b[d]
//!   backward   g        = dy w
//!              dx[m,d]  = rstd[m] (g[m,d] - mean_d g - n[m,d] mean_d(g n))            =
//!              dw[d]    = sum_m dy[m,d] n[m,d]      db[d] = sum_m dy[m,d]             =
//!   tensors    x, y, dx, dy [.., D]     w, b, dw, db [D], dw and db f32 on a device too
//!   bound by   memory: forward moves 2 M D, backward 3 M D numbers
//!   repeatable yes: dw and db are summed in blocks of rows, then block by block
//! ```

use crate::gpu::{Grid, Real, args};
use crate::ops::blocks;
use crate::ops::column_sums;
use crate::ops::vector::{dot, sum};
use crate::tape::{Tape, Var};
use crate::tensor::{Tensor, agree};

const EPS: f32 = 1e-5;

impl Tape {
    /// (x - mean) / deviation, times gain, plus bias: x `[.., D]`, gain and bias `[D]` to `[.., D]`.
    pub fn layer_norm(&mut self, x: Var, gain: Var, bias: Var) -> Var {
        let (xs, w) = (self.value(x).clone(), self.value(gain).clone());
        let (y, moments) = forward(&xs, &w, self.value(bias));
        self.record("layer_norm", &[x, gain, bias], y, move |dy| {
            backward(dy, &xs, &w, &moments).into_iter().map(Some).collect()
        })
    }
}

/// y, and mean and rstd of each row, `[M, 2]`.
pub fn forward(x: &Tensor, w: &Tensor, b: &Tensor) -> (Tensor, Tensor) {
    let width = x.width();
    if let Some(gpu) = agree("layer_norm", &[(x, x.shape()), (w, &[width]), (b, &[width])], &[]) {
        let y = x.like("layer_norm y");
        let moments = Tensor::on(gpu, "layer_norm moments", &[x.rows(), 2], Real::F32);
        launch_forward(&y, &moments, x, w, b);
        return (y, moments);
    }
    let size = blocks::rows(width) * width;
    let (y, moments) = blocks::make_fold(x.len(), size, |i, block| {
        let rows = block.chunks_exact_mut(width).zip(x.data()[i * size..].chunks_exact(width));
        rows.map(|(y, x)| {
            let mean = sum(x) / width as f32;
            y.iter_mut().zip(x).for_each(|(y, x)| *y = x - mean);
            let rstd = 1.0 / (dot(y, y) / width as f32 + EPS).sqrt();
            for ((y, w), b) in y.iter_mut().zip(w.data()).zip(b.data()) {
                *y = (*y * rstd).mul_add(*w, *b);
            }
            [mean, rstd]
        })
        .collect::<Vec<[f32; 2]>>()
    });
    (Tensor::new(x.shape(), y), Tensor::new(&[x.rows(), 2], moments.concat().concat()))
}

/// dx, dw, db.
pub fn backward(dy: &Tensor, x: &Tensor, w: &Tensor, moments: &Tensor) -> [Tensor; 3] {
    let width = x.width();
    let like_x = [(dy, x.shape()), (x, x.shape()), (w, &[width])];
    if let Some(gpu) = agree("layer_norm", &like_x, &[(moments, &[x.rows(), 2])]) {
        let dx = x.like("layer_norm dx");
        // At least two rows per warp: a block's parts cost as much memory as two rows of f32.
        let count = x.rows().div_ceil(16).min(column_sums::BLOCKS);
        let parts = Tensor::on(gpu, "layer_norm parts of dw and db", &[count, 2 * width], Real::F32);
        launch_backward(&dx, &parts, dy, x, w, moments);
        let both = column_sums::total(&parts);
        return [dx, both.part(0, &[width]), both.part(width, &[width])];
    }
    let (moments, _) = moments.data().as_chunks::<2>();
    let size = blocks::rows(width) * width;
    let (dx, parts) = blocks::make_fold(x.len(), size, |i, block| {
        let (mut dw, mut n) = (vec![0.0; width], vec![0.0; width]);
        let rows = block.chunks_exact_mut(width).zip(dy.data()[i * size..].chunks_exact(width));
        let rows = rows.zip(x.data()[i * size..].chunks_exact(width)).zip(&moments[i * size / width..]);
        for (((dx, dy), x), &[mean, rstd]) in rows {
            n.iter_mut().zip(x).for_each(|(n, x)| *n = (x - mean) * rstd);
            for ((((g, dw), dy), n), w) in dx.iter_mut().zip(&mut dw).zip(dy).zip(&n).zip(w.data()) {
                *g = dy * w;
                *dw += dy * n;
            }
            let (level, slope) = (sum(dx) / width as f32, dot(dx, &n) / width as f32);
            dx.iter_mut().zip(&n).for_each(|(g, n)| *g = rstd * (*g - level - n * slope));
        }
        dw
    });
    let dw = Tensor::new(w.shape(), blocks::sum(&parts, width));
    let db = Tensor::new(w.shape(), blocks::column_sums(dy.data(), width));
    [Tensor::new(x.shape(), dx), dw, db]
}

fn launch_forward(y: &Tensor, moments: &Tensor, x: &Tensor, w: &Tensor, b: &Tensor) {
    let (rows, width) = (x.rows(), x.width());
    let args = args![y, moments, x, w, b, rows, width, EPS];
    // SAFETY: y was made like x, two moments for each of its rows; w and b hold a row.
    unsafe { y.device().launch("layer_norm", "layer_norm_forward", Grid::rows(rows), &args) };
}

fn launch_backward(dx: &Tensor, parts: &Tensor, dy: &Tensor, x: &Tensor, w: &Tensor, moments: &Tensor) {
    let (rows, width) = (x.rows(), x.width());
    let args = args![dx, parts, dy, x, w, moments, rows, width];
    // SAFETY: dx was made like x, two rows of parts for each block; dy was found to be like x too, w to hold a row.
    unsafe { dx.device().launch("layer_norm", "layer_norm_backward", Grid::new(parts.rows(), 256), &args) };
}

/// The definition, in plain loops over f64.
pub mod reference {
    /// y `[M, D]`.
    pub fn forward(x: &[f64], w: &[f64], b: &[f64]) -> Vec<f64> {
        x.chunks(w.len())
            .flat_map(|x| normal(x).0.iter().zip(w).zip(b).map(|((n, w), b)| n * w + b).collect::<Vec<_>>())
            .collect()
    }

    /// dx, dw, db.
    pub fn backward(dy: &[f64], x: &[f64], w: &[f64]) -> [Vec<f64>; 3] {
        let width = w.len();
        let (mut dx, mut dw, mut db) = (vec![0.0; x.len()], vec![0.0; width], vec![0.0; width]);
        for m in 0..x.len() / width {
            let row = m * width..(m + 1) * width;
            let (n, rstd) = normal(&x[row.clone()]);
            let dy = &dy[row.clone()];
            let level = (0..width).map(|d| dy[d] * w[d]).sum::<f64>() / width as f64;
            let slope = (0..width).map(|d| dy[d] * w[d] * n[d]).sum::<f64>() / width as f64;
            for d in 0..width {
                dx[row.start + d] = rstd * (dy[d] * w[d] - level - n[d] * slope);
                dw[d] += dy[d] * n[d];
                db[d] += dy[d];
            }
        }
        [dx, dw, db]
    }

    fn normal(x: &[f64]) -> (Vec<f64>, f64) {
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / x.len() as f64;
        let rstd = 1.0 / (variance + 1e-5).sqrt();
        (x.iter().map(|v| (v - mean) * rstd).collect(), rstd)
    }
}
