//! RMS normalisation over the last axis (Zhang & Sennrich 2019, eq. 4).
//!
//! ```text
//!   forward    rstd[m]  = 1 / sqrt(mean_d x[m,d]^2 + eps)                             eps = 1e-5
//!              y[m,d]   = x[m,d] rstd[m] w[d]                                         w = 1 without a gain
//!   backward   g        = dy w
//!              dx[m,d]  = rstd[m] (g[m,d] - x[m,d] rstd[m]^2 mean_d(g x))             =
//!              dw[d]    = sum_m dy[m,d] x[m,d] rstd[m]                                =
//!              dx is added to what other ops have found for x; y is remade from x and rstd if it was forgotten
//!   tensors    x, y, dx, dy [.., D]     w, dw [D]     rstd [M], f32 on a device too, as dw is
//!   bound by   memory: forward moves 2 M D, backward 3 M D numbers, M D more for adding to dx, and for y
//!   repeatable yes: dw is summed in blocks of rows, then block by block
//! ```

use crate::gpu::{Grid, PROCESSORS, Real, args};
use crate::ops::blocks;
use crate::ops::column_sums;
use crate::ops::vector::dot;
use crate::tape::{Back, Sink, Tape, Var};
use crate::tensor::{Shaped, Tensor, agree};

const EPS: f32 = 1e-5;

impl Tape {
    /// x over its root mean square, times gain: x `[.., D]`, gain `[D]` to `[.., D]`. The value may be forgotten.
    pub fn rms_norm(&mut self, x: Var, gain: Option<Var>) -> Var {
        let xs = self.value(x).clone();
        let w = gain.map(|w| self.value(w).clone());
        let (y, rstd) = forward(&xs, w.as_ref());
        let sink = gain.and_then(|w| self.sink(w));
        let inputs: Vec<Var> = [x].into_iter().chain(gain).collect();
        self.record_remade("rms_norm", &inputs, y, move |back| {
            let (dx, dw, y) = backward(back, &xs, w.as_ref(), &rstd, sink.as_ref());
            ([Some(dx)].into_iter().chain(w.is_some().then_some(dw)).collect(), y)
        })
    }
}

/// y, and rstd `[M]`.
pub fn forward(x: &Tensor, w: Option<&Tensor>) -> (Tensor, Tensor) {
    let width = x.width();
    let row = [width];
    let mut given: Vec<Shaped> = vec![(x, x.shape())];
    given.extend(w.map(|w| (w, &row[..])));
    if let Some(gpu) = agree("rms_norm", &given, &[]) {
        let y = x.like("rms_norm y");
        let rstd = Tensor::on(gpu, "rms_norm rstd", &[x.rows()], Real::F32);
        launch_forward(&y, &rstd, x, w);
        return (y, rstd);
    }
    let size = blocks::rows(width) * width;
    let (y, rstd) = blocks::make_fold(x.len(), size, |i, block| {
        let xs = x.data()[i * size..].chunks_exact(width);
        let rows = block.chunks_exact_mut(width).zip(xs);
        rows.map(|(y, x)| {
            let rstd = 1.0 / (dot(x, x) / width as f32 + EPS).sqrt();
            normalise(y, x, w, rstd);
            rstd
        })
        .collect::<Vec<f32>>()
    });
    (Tensor::new(x.shape(), y), Tensor::new(&[x.rows()], rstd.concat()))
}

fn normalise(y: &mut [f32], x: &[f32], w: Option<&Tensor>, rstd: f32) {
    match w {
        Some(w) => y.iter_mut().zip(x).zip(w.data()).for_each(|((y, x), w)| *y = x * rstd * w),
        None => y.iter_mut().zip(x).for_each(|(y, x)| *y = x * rstd),
    }
}

/// The same y as the forward's.
fn remake(x: &Tensor, w: Option<&Tensor>, rstd: &Tensor) -> Tensor {
    let (width, rows) = (x.width(), blocks::rows(x.width()));
    let y = blocks::make(x.len(), rows * width, |i, block| {
        let xs = x.data()[i * rows * width..].chunks_exact(width).zip(&rstd.data()[i * rows..]);
        block.chunks_exact_mut(width).zip(xs).for_each(|(y, (x, &rstd))| normalise(y, x, w, rstd));
    });
    Tensor::new(x.shape(), y)
}

/// dx, including the sum so far; dw if there is a gain (on a device it is written to its place, if it has one); and y if requested.
pub fn backward(
    back: &mut Back,
    x: &Tensor,
    w: Option<&Tensor>,
    rstd: &Tensor,
    sink: Option<&Sink>,
) -> (Tensor, Option<Tensor>, Option<Tensor>) {
    let (width, dy, again) = (x.width(), back.dy, back.again);
    let before = back.so_far.take();
    let row = [width];
    let mut given: Vec<Shaped> = vec![(x, x.shape()), (dy, x.shape())];
    given.extend(before.as_ref().map(|sum| (sum, x.shape())).into_iter().chain(w.map(|w| (w, &row[..]))));
    if agree("rms_norm", &given, &[(rstd, &[x.rows()])]).is_some() {
        return backward_on(x, w, rstd, dy, before.as_ref(), again, sink);
    }
    let size = blocks::rows(width) * width;
    let (dx, parts) = blocks::make_fold(x.len(), size, |i, block| {
        let mut dw = vec![0.0; if w.is_some() { width } else { 0 }];
        let rows = block.chunks_exact_mut(width).zip(dy.data()[i * size..].chunks_exact(width));
        let rows = rows.zip(x.data()[i * size..].chunks_exact(width)).zip(&rstd.data()[i * size / width..]);
        for (((dx, dy), x), &rstd) in rows {
            // dx holds g = dy w until it is computed itself.
            match w {
                Some(w) => {
                    for ((((g, dw), dy), x), w) in dx.iter_mut().zip(&mut dw).zip(dy).zip(x).zip(w.data()) {
                        *g = dy * w;
                        *dw += dy * x * rstd;
                    }
                }
                None => dx.copy_from_slice(dy),
            }
            let shift = rstd * rstd * dot(dx, x) / width as f32;
            dx.iter_mut().zip(x).for_each(|(g, x)| *g = rstd * (*g - x * shift));
        }
        if let Some(before) = &before {
            block.iter_mut().zip(&before.data()[i * size..]).for_each(|(dx, before)| *dx += before);
        }
        dw
    });
    let dw = w.map(|w| Tensor::new(w.shape(), blocks::sum(&parts, width)));
    (Tensor::new(x.shape(), dx), dw, again.then(|| remake(x, w, rstd)))
}

fn launch_forward(y: &Tensor, rstd: &Tensor, x: &Tensor, w: Option<&Tensor>) {
    let (rows, width) = (x.rows(), x.width());
    let args = args![y, rstd, x, w, rows, width, EPS];
    // SAFETY: y was made like x, rstd for its rows; w was found to hold a row.
    unsafe { y.device().launch("rms_norm", "rms_norm_forward", Grid::rows(rows), &args) };
}

/// A kernel of the backward, and how many of its blocks run at once.
struct Kernel {
    name: &'static str,
    blocks: usize,
}

impl Kernel {
    /// `read`: all that is read in packs, x included; what is written begins at a multiple of 16 bytes.
    fn of(x: &Tensor, read: &[Option<&Tensor>]) -> Kernel {
        let row = x.width() * x.real().bytes();
        let packed = read.iter().flatten().all(|x| x.address().is_multiple_of(16)) && row.is_multiple_of(16);
        match row {
            0..=1024 if packed => Kernel { name: "rms_norm_backward_narrow", blocks: 3 * PROCESSORS },
            0..=1536 if packed => Kernel { name: "rms_norm_backward_middle", blocks: 2 * PROCESSORS },
            _ => Kernel { name: "rms_norm_backward", blocks: 2 * PROCESSORS },
        }
    }
}

fn backward_on(
    x: &Tensor,
    w: Option<&Tensor>,
    rstd: &Tensor,
    dy: &Tensor,
    before: Option<&Tensor>,
    again: bool,
    sink: Option<&Sink>,
) -> (Tensor, Option<Tensor>, Option<Tensor>) {
    let (gpu, rows, width) = (x.device(), x.rows(), x.width());
    // If nobody else reads the sum so far, the new one takes its place.
    let fresh = || x.like("rms_norm dx");
    let dx = before.filter(|sum| sum.is_alone()).map_or_else(fresh, |sum| sum.reshape(x.shape()));
    // At least two rows per warp: a block's parts cost as much memory as a row of f32.
    let kernel = Kernel::of(x, &[Some(x), Some(dy), before, w]);
    let count = rows.div_ceil(16).min(kernel.blocks);
    let parts = w.map(|_| Tensor::on(gpu, "rms_norm parts of dw", &[count, width], Real::F32));
    let y = again.then(|| x.like("rms_norm y"));
    let args = args![&dx, parts.as_ref(), y.as_ref(), before, dy, x, w, rstd, rows, width];
    // SAFETY: dx and y were made like x, parts for `count` blocks; dy and what is added to dx were found to be like x, w to hold a
    // row, rstd one number per row. What is added may be dx itself: a thread reads a number before it writes it.
    unsafe { gpu.launch("rms_norm", kernel.name, Grid::new(count, 256), &args) };
    (dx, parts.and_then(|parts| column_sums::gradient_of(&parts, sink)), y)
}

/// The definition, in plain loops over f64.
pub mod reference {
    /// y `[M, D]`.
    pub fn forward(x: &[f64], w: &[f64]) -> Vec<f64> {
        x.chunks(w.len())
            .flat_map(|x| x.iter().zip(w).map(|(v, w)| v * rstd(x) * w).collect::<Vec<_>>())
            .collect()
    }

    /// dx and dw.
    pub fn backward(dy: &[f64], x: &[f64], w: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let width = w.len();
        let (mut dx, mut dw) = (vec![0.0; x.len()], vec![0.0; width]);
        for m in 0..x.len() / width {
            let row = m * width..(m + 1) * width;
            let (x, dy, r) = (&x[row.clone()], &dy[row.clone()], rstd(&x[row.clone()]));
            let mean = (0..width).map(|d| dy[d] * w[d] * x[d]).sum::<f64>() / width as f64;
            for d in 0..width {
                dx[row.start + d] = r * (dy[d] * w[d] - x[d] * r * r * mean);
                dw[d] += dy[d] * x[d] * r;
            }
        }
        (dx, dw)
    }

    fn rstd(x: &[f64]) -> f64 {
        1.0 / (x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64 + 1e-5).sqrt()
    }
}
