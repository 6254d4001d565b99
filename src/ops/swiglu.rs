//! Gated SiLU (Shazeer 2020, eq. 5), gate and value packed side by side.
//!
//! ```text
//!   forward    y[m,f]  = silu(a[m,f]) u[m,f]           [a | u] = x[m],  silu(a) = a s(a),  s(a) = 1 / (1 + e^-a)
//!   backward   da[m,f] = dy[m,f] u[m,f] s (1 + a (1 - s))                       =
//!              du[m,f] = dy[m,f] silu(a[m,f])                                   =
//!   tensors    x, dx [.., 2F]     y, dy [.., F]
//!              y again, if it was forgotten
//!   bound by   memory: forward moves 3 M F, backward 5 M F numbers, 6 M F with y
//! ```

use crate::ops::blocks;
use crate::ops::gate;
use crate::tape::{Tape, Var};
use crate::tensor::{Tensor, agree};

impl Tape {
    /// silu(first half) times second half of the last axis: `[.., 2F]` to `[.., F]`. The value may be forgotten.
    pub fn swiglu(&mut self, gate_up: Var) -> Var {
        let x = self.value(gate_up).clone();
        let y = gate::forward(None, &x, 0);
        self.record_remade("swiglu", &[gate_up], y, move |back| {
            let (dx, y) = backward(back.dy, &x, back.again);
            (vec![Some(dx)], y)
        })
    }
}

/// dx `[.., 2F]` from dy `[.., F]`, and y if requested.
pub fn backward(dy: &Tensor, x: &Tensor, again: bool) -> (Tensor, Option<Tensor>) {
    let shape = gate::shape(x, 0, 0);
    if agree("swiglu", &[(dy, &shape), (x, x.shape())], &[]).is_some() {
        let dx = x.like("swiglu dx");
        let y = gate::backward_on(&dx, dy, None, x, 0, again);
        return (dx, y);
    }
    let width = dy.width();
    let rows = blocks::rows(2 * width);
    let dx = blocks::make(x.len(), rows * 2 * width, |i, block| {
        let xs = x.data()[i * rows * 2 * width..].chunks_exact(2 * width);
        let dys = dy.data()[i * rows * width..].chunks_exact(width);
        let block = block.chunks_exact_mut(2 * width);
        block.zip(dys).zip(xs).for_each(|((dx, dy), x)| gate::backward_row(dx, dy, x));
    });
    (Tensor::new(x.shape(), dx), again.then(|| gate::forward(None, x, 0)))
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
