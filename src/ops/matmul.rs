//! A linear map of the last axis, with bias and residual.
//!
//! ```text
//!   forward    y[m, j]  = r[m, j] + sum_i x[m, i] w[j, i] + b[j]        r and b if given
//!   backward   dr       = dy                                            =
//!              dx[m, i] = sum_j dy[m, j] w[j, i]                        =
//!              dw[j, i] = sum_m dy[m, j] x[m, i]                        =, on a device += if it has a place of its own
//!              db[j]    = sum_m dy[m, j]                                =
//!   tensors    x, dx [.., I]   w, dw [J, I]   b, db [J]   r, y, dr, dy [.., J]
//!   bound by   compute: 2 M I J per product, three products with the backward
//! ```

use crate::ops::blocks;
use crate::ops::column_sums::column_sums;
use crate::ops::gemm::{Keep, Mat, MatMut, Threads, product};
use crate::tape::{Flops, Op, Sink, Tape, Var};
use crate::tensor::{Shaped, Tensor, agree};
use crate::trace;

mod device;

impl Tape {
    /// x w^T + bias: x `[.., I]`, w `[J, I]`, bias `[J]` to `[.., J]`.
    pub fn linear(&mut self, x: Var, w: Var, bias: Option<Var>) -> Var {
        affine(self, None, x, w, bias)
    }

    /// residual + x w^T + bias: residual `[.., J]`, x `[.., I]`, w `[J, I]`, bias `[J]` to `[.., J]`.
    pub fn linear_add(&mut self, residual: Var, x: Var, w: Var, bias: Option<Var>) -> Var {
        affine(self, Some(residual), x, w, bias)
    }
}

fn affine(tape: &mut Tape, residual: Option<Var>, x: Var, w: Var, bias: Option<Var>) -> Var {
    let _range = trace::range("matmul forward");
    let (xs, ws) = (tape.value(x).clone(), tape.value(w).clone());
    let y = forward(residual.map(|r| tape.value(r)), &xs, &ws, bias.map(|b| tape.value(b)));
    let (x_needs, w_needs) = (tape.needs(x), tape.needs(w) || bias.is_some_and(|b| tape.needs(b)));
    let inputs: Vec<Var> = [x, w].into_iter().chain(bias).chain(residual).collect();
    let (with_bias, with_residual) = (bias.is_some(), residual.is_some());
    let product = 2 * xs.rows() * ws.len();
    let [of_x, of_w] = [x_needs, tape.needs(w)].map(|needs| product * usize::from(needs));
    let shape = xs.shape().to_vec();
    drop(xs); // the tape keeps it, or remakes it
    let (weights, sinks) = (ws.clone(), [tape.sink(w), bias.and_then(|b| tape.sink(b))]);
    let backward = move |dy: &Tensor| {
        let dx = x_needs.then(|| backward_x(dy, &shape, &ws));
        let others = [with_bias.then_some(None), with_residual.then(|| Some(dy.clone()))];
        [dx, None].into_iter().chain(others.into_iter().flatten()).collect()
    };
    let op = Op::of("matmul", Flops { forward: product, backward: of_x, reading: of_w });
    tape.record_read(op, &inputs, y, backward, move |dy, x| {
        let (dw, db) = match w_needs {
            true => backward_w(dy, x, &weights, with_bias, sinks.each_ref().map(Option::as_ref)),
            false => (None, None),
        };
        let others = [with_bias.then_some(db), with_residual.then_some(None)];
        [None, dw].into_iter().chain(others.into_iter().flatten()).collect()
    })
}

/// y `[.., J]` from x `[.., I]`, w `[J, I]` and, if given, residual `[.., J]` and bias `[J]`.
pub fn forward(residual: Option<&Tensor>, x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Tensor {
    let [outputs, inputs] = w.dims("matmul");
    let (of_x, shape, of_bias) = (with_width(x.shape(), inputs), with_width(x.shape(), outputs), [outputs]);
    let mut given: Vec<Shaped> = vec![(x, &of_x), (w, w.shape())];
    given.extend(residual.map(|r| (r, &shape[..])).into_iter().chain(bias.map(|b| (b, &of_bias[..]))));
    if let Some(gpu) = agree("matmul", &given, &[]) {
        return device::forward(gpu, &shape, residual, x, w, bias);
    }
    let start = |first: usize, block: &mut [f32]| match (residual, bias) {
        (Some(r), None) => block.copy_from_slice(&r.data()[first..first + block.len()]),
        (None, Some(b)) => block.chunks_exact_mut(outputs).for_each(|row| row.copy_from_slice(b.data())),
        (Some(r), Some(b)) => {
            let rows = block.chunks_exact_mut(outputs).zip(r.data()[first..].chunks_exact(outputs));
            for (row, r) in rows {
                row.iter_mut().zip(r).zip(b.data()).for_each(|((y, r), b)| *y = r + b);
            }
        }
        (None, None) => {}
    };
    let keep = if residual.is_some() || bias.is_some() { Keep::Add } else { Keep::Nothing };
    let (block_rows, threads) = cut(x.rows());
    let size = block_rows * outputs;
    let y = blocks::make(x.rows() * outputs, size, |i, block| {
        start(i * size, block);
        let rows = block.len() / outputs;
        let x = Mat::new(&x.data()[i * block_rows * inputs..], rows, inputs);
        let w = Mat::new(w.data(), outputs, inputs);
        product(MatMut::new(block, rows, outputs), x, w.t(), keep, threads);
    });
    Tensor::new(&shape, y)
}

/// The shape of rows of another width.
fn with_width(shape: &[usize], width: usize) -> Vec<usize> {
    [&shape[..shape.len() - 1], &[width]].concat()
}

/// Rows that one thread takes at a time: their x and y stay in the level-2 cache.
const ROWS: usize = 256;

/// Rows of a block, and which threads work on it: few rows make one block, whose columns all cores share.
fn cut(rows: usize) -> (usize, Threads) {
    if rows < 2 * ROWS { (rows.max(1), Threads::All) } else { (ROWS, Threads::One) }
}

/// dx of that shape, `[.., I]`, from dy `[.., J]`, which is stored as the activations are.
///
/// # Panics
/// If the shapes do not fit.
pub fn backward_x(dy: &Tensor, shape: &[usize], w: &Tensor) -> Tensor {
    let [outputs, inputs] = w.dims("matmul");
    assert!(shape.last() == Some(&inputs), "matmul: dx {shape:?}, w {:?}", w.shape());
    if let Some(gpu) = agree("matmul", &[(dy, &with_width(shape, outputs)), (w, w.shape())], &[]) {
        return device::backward_x(gpu, dy, shape, w);
    }
    let (block_rows, threads) = cut(dy.rows());
    let dx = blocks::make(dy.rows() * inputs, block_rows * inputs, |i, block| {
        let rows = block.len() / inputs;
        let dy = Mat::new(&dy.data()[i * block_rows * outputs..], rows, outputs);
        let w = Mat::new(w.data(), outputs, inputs);
        product(MatMut::new(block, rows, inputs), dy, w, Keep::Nothing, threads);
    });
    Tensor::new(shape, dx)
}

/// dw `[J, I]` and, if wanted, db `[J]` from dy `[.., J]`. On a device each is written to its place, if it has one.
pub fn backward_w(
    dy: &Tensor,
    x: &Tensor,
    w: &Tensor,
    with_bias: bool,
    sinks: [Option<&Sink>; 2],
) -> (Option<Tensor>, Option<Tensor>) {
    let [outputs, inputs] = w.dims("matmul");
    let reals =
        [(dy, &with_width(x.shape(), outputs)[..]), (x, &with_width(x.shape(), inputs)), (w, w.shape())];
    if let Some(gpu) = agree("matmul", &reals, &[]) {
        return device::backward_w(gpu, dy, x, w, with_bias, sinks);
    }
    (Some(weights(dy, x, w)), with_bias.then(|| column_sums(dy)))
}

/// dw `[J, I]` on the host.
///
/// Rows of dw are cut into slices and, if that makes too few tasks, the sum over m into parts, which are added in order.
fn weights(dy: &Tensor, x: &Tensor, w: &Tensor) -> Tensor {
    const SLICE: usize = 128;
    const TASKS: usize = 8;
    let [outputs, inputs] = w.dims("matmul");
    let rows = x.rows();
    let parts = TASKS.div_ceil(outputs.div_ceil(SLICE)).min(rows / ROWS).max(1);
    let part = rows.div_ceil(parts).next_multiple_of(ROWS);
    let mut dw = blocks::make_within(parts, w.len(), SLICE * inputs, |p, first, block| {
        let (j, count) = (first / inputs, block.len() / inputs);
        for from in (p * part..rows.min((p + 1) * part)).step_by(ROWS) {
            let taken = ROWS.min(rows - from);
            let dy = Mat::strided(&dy.data()[from * outputs + j..], taken, count, outputs);
            let x = Mat::new(&x.data()[from * inputs..], taken, inputs);
            product(MatMut::new(block, count, inputs), dy.t(), x, Keep::Add, Threads::One);
        }
    });
    let (sum, others) = dw.split_at_mut(w.len());
    if parts > 1 {
        blocks::each(sum, blocks::GRAIN, |i, sum| {
            for other in others.chunks_exact(w.len()) {
                sum.iter_mut().zip(&other[i * blocks::GRAIN..]).for_each(|(a, b)| *a += b);
            }
        });
    }
    dw.truncate(w.len());
    Tensor::new(w.shape(), dw)
}

/// The definition, in plain loops over f64.
pub mod reference {
    /// y `[M, J]`.
    pub fn forward(
        residual: Option<&[f64]>,
        x: &[f64],
        w: &[f64],
        bias: Option<&[f64]>,
        inputs: usize,
    ) -> Vec<f64> {
        let outputs = w.len() / inputs;
        let mut y = vec![0.0; x.len() / inputs * outputs];
        for (m, row) in y.chunks_mut(outputs).enumerate() {
            for (j, y) in row.iter_mut().enumerate() {
                *y = residual.map_or(0.0, |r| r[m * outputs + j]) + bias.map_or(0.0, |b| b[j]);
                for i in 0..inputs {
                    *y += x[m * inputs + i] * w[j * inputs + i];
                }
            }
        }
        y
    }

    /// dx, dw, db; dr is dy.
    pub fn backward(dy: &[f64], x: &[f64], w: &[f64], inputs: usize) -> [Vec<f64>; 3] {
        let outputs = w.len() / inputs;
        let (mut dx, mut dw, mut db) = (vec![0.0; x.len()], vec![0.0; w.len()], vec![0.0; outputs]);
        for (m, row) in dy.chunks(outputs).enumerate() {
            for (j, &d) in row.iter().enumerate() {
                db[j] += d;
                for i in 0..inputs {
                    dx[m * inputs + i] += d * w[j * inputs + i];
                    dw[j * inputs + i] += d * x[m * inputs + i];
                }
            }
        }
        [dx, dw, db]
    }
}
