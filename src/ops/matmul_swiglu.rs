//! A gated MLP with a residual: two products around SwiGLU (Shazeer 2020, eq. 5); on a device what lies between them is fused.
//!
//! ```text
//!   forward    [a | u] = x w^T     y = silu(a) u     z[m, e] = r[m, e] + sum_f y[m, f] v[e, f]
//!   backward   dr = dz                                                                          =
//!              dv[e, f] = sum_m dz[m, e] y[m, f]           dy = dz v                            =
//!              da = dy u s(a) (1 + a (1 - s(a)))           du = dy silu(a)                      =
//!              dx[m, e] = [da | du] w                      dw = [da | du]^T x                   =
//!   tensors    x, r, z [.., E]   w = w_gate_up [2F, E]   v = w_down [E, F]   y [.., F]
//!   bound by   compute: 6 M E F forward, 12 M E F backward
//! ```
//!
//! Between forward and backward a device keeps only [a | u]; y is recomputed. On Hopper one kernel fuses the first product with y,
//! another the product dy with [da | du] (matmul_swiglu.cu); elsewhere, and where that is quicker, the library's products and
//! swiglu.cu do it in two steps.

use std::cell::RefCell;
use std::rc::Rc;

use crate::gpu::{Gpu, Grid, Map, Real, Route, args};
use crate::ops::blocks;
use crate::ops::gate;
use crate::ops::product::{self, Plus, Side};
use crate::tape::{Flops, Op, Sink, Tape, Var};
use crate::tensor::{Tensor, agree};
use crate::trace;

impl Tape {
    /// residual + swiglu(x w_gate_up^T) w_down^T: residual and x `[.., E]`, w_gate_up `[2F, E]`, w_down `[E, F]` to `[.., E]`.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn matmul_swiglu(&mut self, residual: Var, x: Var, w_gate_up: Var, w_down: Var) -> Var {
        let _range = trace::range("matmul_swiglu forward");
        let [xs, w, v] = [x, w_gate_up, w_down].map(|var| self.value(var).clone());
        let ([twice, e], [out, width]): ([usize; 2], [usize; 2]) =
            (w.dims("matmul_swiglu"), v.dims("matmul_swiglu"));
        let fits = twice == 2 * width && e == xs.width() && out == e;
        assert!(fits, "matmul_swiglu: x {:?}, w_gate_up {:?}, w_down {:?}", xs.shape(), w.shape(), v.shape());
        let r = self.value(residual);
        let reals = [(&xs, xs.shape()), (r, xs.shape()), (&w, w.shape()), (&v, v.shape())];
        let Some(gpu) = agree("matmul_swiglu", &reals, &[]).cloned() else {
            let gate_up = self.linear(x, w_gate_up, None);
            let gated = self.swiglu(gate_up);
            return self.linear_add(residual, gated, w_down, None);
        };
        // x first: it may be forgotten, and is then remade for the last product.
        let inputs = [x, w_gate_up, w_down, residual];
        let keep = inputs.iter().any(|&var| self.needs(var));
        let (y, gate_up) = gate(&gpu, &xs, &w, keep);
        let z = xs.like("matmul_swiglu z");
        let plus = Plus { residual: Some(self.value(residual)), ..Plus::default() };
        multiply(&z, Side::Rows(&y), Side::Columns(&v), plus);
        let product = 2 * xs.rows() * e * width;
        let flops = Flops { forward: 3 * product, backward: 4 * product, reading: 2 * product };
        let op = Op::of("matmul_swiglu", flops);
        let (shape, on) = (xs.shape().to_vec(), gpu.clone());
        drop(xs);
        let [of_w, of_v] = [w_gate_up, w_down].map(|w| self.sink(w));
        let left = Rc::new(RefCell::new(None));
        let found = left.clone();
        let backward = move |dz: &Tensor| {
            let gate_up = gate_up.expect("kept where a gradient is needed");
            let (d_gate_up, y) = gate_backward(&gpu, dz, &gate_up, &v);
            let dx = Tensor::on(&gpu, "matmul_swiglu dx", &shape, dz.real());
            multiply(&dx, Side::Rows(&d_gate_up), Side::Rows(&w), Plus::default());
            let dv = weights(&gpu, dz, &y, of_v.as_ref());
            found.replace(Some(d_gate_up));
            vec![Some(dx), None, dv, Some(dz.clone())]
        };
        self.record_read(op, &inputs, z, backward, move |_, x| {
            let d_gate_up = left.take().expect("the first part of the backward comes first");
            vec![None, weights(&on, &d_gate_up, x, of_w.as_ref()), None, None]
        })
    }
}

/// Rows that the two steps take at a time if what lies between them is not kept.
const ROWS: usize = 1 << 14;

/// y `[.., F]` and, if it is kept, gate_up `[.., 2F]`.
fn gate(gpu: &Gpu, x: &Tensor, w: &Tensor, keep: bool) -> (Tensor, Option<Tensor>) {
    let size @ [m, e, width] = [x.rows(), x.width(), w.rows() / 2];
    let make = |what, width| {
        Tensor::on(gpu, what, &[&x.shape()[..x.shape().len() - 1], &[width]].concat(), x.real())
    };
    let y = make("matmul_swiglu y", width);
    let gate_up = keep.then(|| make("matmul_swiglu gate_up", 2 * width));
    let fused = |blocks| {
        let [xs, ws] = [Map::new(x.operand(), [m, e], 128), Map::new(w.operand(), [2 * width, e], 64)];
        let args = args![&y, &gate_up, xs, ws, m, e, width];
        let kernel = instance(e, ["matmul_swiglu_forward", "matmul_swiglu_forward_wide"]);
        // SAFETY: y and gate_up were made for m rows; the maps end where x and w do.
        unsafe { gpu.launch("matmul_swiglu", kernel, grid(blocks, size, 64), &args) };
    };
    let plain = || {
        let two_steps = |y: &Tensor, x: &Tensor, x_w: &Tensor| {
            multiply(x_w, Side::Rows(x), Side::Columns(w), Plus::default());
            gate::forward_into(y, None, x_w, 0);
        };
        if let Some(gate_up) = &gate_up {
            return two_steps(&y, x, gate_up);
        }
        let between = Tensor::on(gpu, "matmul_swiglu gate_up", &[m.min(ROWS), 2 * width], x.real());
        for part in blocks::parts(m, ROWS) {
            let between = between.part_of_rows(&(0..part.len()));
            two_steps(&y.part_of_rows(&part), &x.part_of_rows(&part), &between);
        }
    };
    let what = if keep { "gate, kept" } else { "gate" };
    gpu.either(Route::Any, what, size, blocks_of_fused(gpu, width, [x, w]), fused, plain);
    (y, gate_up)
}

/// d_gate_up `[.., 2F]` from dz `[.., E]`, and y `[.., F]` recomputed.
fn gate_backward(gpu: &Gpu, dz: &Tensor, gate_up: &Tensor, v: &Tensor) -> (Tensor, Tensor) {
    let size @ [m, e, width] = [dz.rows(), dz.width(), v.width()];
    let d_gate_up = Tensor::on(gpu, "matmul_swiglu d_gate_up", &[m, 2 * width], dz.real());
    let y = Tensor::on(gpu, "matmul_swiglu y", &[m, width], dz.real());
    let fused = |blocks| {
        let [dzs, vs] = [Map::new(dz.operand(), [m, e], 128), Map::new(v.operand(), [e, width], 64)];
        let args = args![&d_gate_up, &y, gate_up, dzs, vs, m, e, width];
        let kernel = instance(e, ["matmul_swiglu_backward", "matmul_swiglu_backward_wide"]);
        // SAFETY: y and d_gate_up were made for m rows, and so was gate_up, as the tape gives dz the shape of z; the maps end where
        // dz and v do.
        unsafe { gpu.launch("matmul_swiglu", kernel, grid(blocks, size, 128), &args) };
    };
    let plain = || {
        let between = Tensor::on(gpu, "matmul_swiglu dy", &[m.min(ROWS), width], dz.real());
        for part in blocks::parts(m, ROWS) {
            let of = |x: &Tensor| x.part_of_rows(&part);
            let (dz, dy) = (of(dz), between.part_of_rows(&(0..part.len())));
            multiply(&dy, Side::Rows(&dz), Side::Rows(v), Plus::default());
            gate::backward_into(&of(&d_gate_up), Some(&of(&y)), &dy, None, &of(gate_up), 0);
        }
    };
    gpu.either(Route::Any, "gate backward", size, blocks_of_fused(gpu, width, [dz, v]), fused, plain);
    (d_gate_up, y)
}

/// How many blocks run at once, if the fused kernels can be used: they need whole steps of the copy engine, on matrices that it can
/// read.
fn blocks_of_fused(gpu: &Gpu, width: usize, read: [&Tensor; 2]) -> Option<usize> {
    let fits = width.is_multiple_of(8) && read.iter().all(|x| Map::can(&x.operand()));
    gpu.hopper_blocks().filter(|_| fits)
}

/// Which of a fused kernel's two instances takes rows of `e` numbers. The first keeps up to 512 of them for all tiles of a row, the
/// second up to 768. Longer rows go to the first, which reads them again for each tile.
fn instance(e: usize, [narrow, wide]: [&'static str; 2]) -> &'static str {
    if (513..=768).contains(&e) { wide } else { narrow }
}

/// One block per multiprocessor, but no more than there are tiles of 128 rows and `columns` columns. Shared memory is
/// `SHARED_BYTES` of panels.cuh, for both instances: 14 slots of 16 KiB and two barriers each; and slack to align to 1024 bytes.
fn grid(blocks: usize, [m, _, width]: [usize; 3], columns: usize) -> Grid {
    let tiles = m.div_ceil(128) * width.div_ceil(columns);
    Grid::new(tiles.min(blocks), 512).with_shared(14 * (16 << 10) + 2 * 14 * 8 + 1024)
}

fn multiply(out: &Tensor, a: Side, b: Side, plus: Plus) {
    product::multiply("matmul_swiglu", out, a, b, plus);
}

/// dw `[J, I]`, f32, from dy `[M, J]` and x `[M, I]`; `None` if it was written to its place.
fn weights(gpu: &Gpu, dy: &Tensor, x: &Tensor, sink: Option<&Sink>) -> Option<Tensor> {
    let new = || Tensor::on(gpu, "matmul_swiglu dw", &[dy.width(), x.width()], Real::F32);
    let dw = Sink::place(sink, new);
    multiply(&dw.to, Side::Columns(dy), Side::Rows(x), Plus { more: dw.more, ..Plus::default() });
    dw.gradient()
}

/// The definition, in plain loops over f64.
pub mod reference {
    /// [a | u] `[M, 2F]`, then y `[M, F]`.
    fn gate(x: &[f64], w: &[f64], [e, width]: [usize; 2]) -> [Vec<f64>; 2] {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let gate_up: Vec<f64> = x.chunks(e).flat_map(|x| w.chunks(e).map(move |w| dot(x, w))).collect();
        let gated = |row: &[f64], f: usize| row[f] / (1.0 + (-row[f]).exp()) * row[width + f];
        let y = gate_up.chunks(2 * width).flat_map(|row| (0..width).map(move |f| gated(row, f))).collect();
        [gate_up, y]
    }

    /// z `[M, E]`.
    pub fn forward(residual: &[f64], x: &[f64], w: &[f64], v: &[f64], [e, width]: [usize; 2]) -> Vec<f64> {
        let [_, y] = gate(x, w, [e, width]);
        let mut z = residual.to_vec();
        for (z, y) in z.chunks_mut(e).zip(y.chunks(width)) {
            for (z, v) in z.iter_mut().zip(v.chunks(width)) {
                *z += y.iter().zip(v).map(|(y, v)| y * v).sum::<f64>();
            }
        }
        z
    }

    /// dr, dx, dw, dv.
    pub fn backward(dz: &[f64], x: &[f64], w: &[f64], v: &[f64], [e, width]: [usize; 2]) -> Vec<Vec<f64>> {
        let [gate_up, y] = gate(x, w, [e, width]);
        let (mut dx, mut dw, mut dv) = (vec![0.0; x.len()], vec![0.0; w.len()], vec![0.0; v.len()]);
        for m in 0..x.len() / e {
            let (x, dz, row) = (&x[m * e..][..e], &dz[m * e..][..e], &gate_up[m * 2 * width..][..2 * width]);
            for f in 0..width {
                let dy: f64 = (0..e).map(|i| dz[i] * v[i * width + f]).sum();
                (0..e).for_each(|i| dv[i * width + f] += dz[i] * y[m * width + f]);
                let (a, u, s) = (row[f], row[width + f], 1.0 / (1.0 + (-row[f]).exp()));
                for (j, d) in [(f, dy * u * s * (1.0 + a * (1.0 - s))), (width + f, dy * a * s)] {
                    for i in 0..e {
                        dx[m * e + i] += d * w[j * e + i];
                        dw[j * e + i] += d * x[i];
                    }
                }
            }
        }
        vec![dz.to_vec(), dx, dw, dv]
    }
}
