//! Gated SiLU (Shazeer 2020, eq. 5), gate and value packed side by side.
//!
//!   forward    y[m,f]  = silu(a[m,f]) u[m,f]           [a | u] = x[m],  silu(a) = a s(a),  s(a) = 1 / (1 + e^-a)
//!   backward   da[m,f] = dy[m,f] u[m,f] s (1 + a (1 - s))                       =
//!              du[m,f] = dy[m,f] silu(a[m,f])                                   =
//!   tensors    x, dx [.., 2F]     y, dy [.., F]
//!   bound by   memory: forward moves 3 M F, backward 5 M F numbers

use crate::gpu::Grid;
use crate::ops::blocks;
use crate::ops::vector::sigmoid;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

impl Tape {
    /// silu(first half) times second half of the last axis: `[.., 2F]` to `[.., F]`.
    pub fn swiglu(&mut self, gate_up: Var) -> Var {
        let x = self.value(gate_up).clone();
        let y = forward(&x);
        self.record(&[gate_up], y, move |dy| vec![Some(backward(dy, &x))])
    }
}

/// y `[.., F]` from x `[.., 2F]`.
pub fn forward(x: &Tensor) -> Tensor {
    let width = x.width() / 2;
    assert!(x.width().is_multiple_of(2) && width > 0, "swiglu: x {:?}", x.shape());
    let mut shape = x.shape().to_vec();
    *shape.last_mut().expect("a tensor has at least one axis") = width;
    if let Some(gpu) = x.gpu() {
        let y = Tensor::on(gpu, "swiglu y", &shape, x.real());
        launch_forward(&y, x, [x.rows(), width]);
        return y;
    }
    let rows = blocks::rows(width);
    let y = blocks::make(x.len() / 2, rows * width, |i, block| {
        let xs = x.data()[i * rows * 2 * width..].chunks_exact(2 * width);
        for (y, x) in block.chunks_exact_mut(width).zip(xs) {
            let (a, u) = x.split_at(width);
            for ((y, &a), &u) in y.iter_mut().zip(a).zip(u) {
                *y = a * sigmoid(a) * u;
            }
        }
    });
    Tensor::new(&shape, y)
}

/// dx `[.., 2F]` from dy `[.., F]`.
pub fn backward(dy: &Tensor, x: &Tensor) -> Tensor {
    let width = x.width() / 2;
    if let Some(gpu) = x.gpu() {
        let dx = Tensor::on(gpu, "swiglu dx", x.shape(), x.real());
        launch_backward(&dx, dy, x, [x.rows(), width]);
        return dx;
    }
    let size = blocks::rows(2 * width) * 2 * width;
    let dx = blocks::make(x.len(), size, |i, block| {
        let rows = block.chunks_exact_mut(2 * width).zip(x.data()[i * size..].chunks_exact(2 * width));
        for ((dx, x), dy) in rows.zip(dy.data()[i * size / 2..].chunks_exact(width)) {
            let ((a, u), (da, du)) = (x.split_at(width), dx.split_at_mut(width));
            for ((((da, du), &a), &u), &dy) in da.iter_mut().zip(du).zip(a).zip(u).zip(dy) {
                let s = sigmoid(a);
                *da = dy * u * s * (1.0 + a * (1.0 - s));
                *du = dy * a * s;
            }
        }
    });
    Tensor::new(x.shape(), dx)
}

fn launch_forward(y: &Tensor, x: &Tensor, [rows, width]: [usize; 2]) {
    let (grid, args) = (Grid::packs(rows, width, x.real()), [y.into(), x.into(), rows.into(), width.into()]);
    // SAFETY: y was made for rows x width, x holds twice that.
    unsafe { y.device().launch("swiglu", "swiglu_forward", grid, &args) };
}

fn launch_backward(dx: &Tensor, dy: &Tensor, x: &Tensor, [rows, width]: [usize; 2]) {
    let grid = Grid::packs(rows, width, x.real());
    let args = [dx.into(), dy.into(), x.into(), rows.into(), width.into()];
    // SAFETY: dx was made as x, [rows, 2 width]; the tape gives dy the shape of y.
    unsafe { dx.device().launch("swiglu", "swiglu_backward", grid, &args) };
}

/// The definition, in plain loops over f64.
pub mod reference {
    /// y `[M, F]` from x `[M, 2F]`.
    pub fn forward(x: &[f64], width: usize) -> Vec<f64> {
        let mut y = Vec::new();
        for x in x.chunks(2 * width) {
            y.extend((0..width).map(|f| x[f] / (1.0 + (-x[f]).exp()) * x[width + f]));
        }
        y
    }

    /// dx `[M, 2F]`.
    pub fn backward(dy: &[f64], x: &[f64], width: usize) -> Vec<f64> {
        let mut dx = vec![0.0; x.len()];
        for ((dx, x), dy) in dx.chunks_mut(2 * width).zip(x.chunks(2 * width)).zip(dy.chunks(width)) {
            for f in 0..width {
                let s = 1.0 / (1.0 + (-x[f]).exp());
                dx[f] = dy[f] * x[width + f] * s * (1.0 + x[f] * (1.0 - s));
                dx[width + f] = dy[f] * x[f] * s;
            }
        }
        dx
    }
}
