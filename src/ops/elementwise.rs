//! Sums, and other shapes for the same numbers: add, sub, scale, weighted_sum, slice, reshape.
//!
//! ```text
//!   forward    y = a + b      y = a - b       y = c a     y = sum_i c_i s_i
//!   backward   da = dy        da = dy         da = c dy   ds_i = c_i dy          all =
//!              db = dy        db = -dy
//!   tensors    a, b, y [..] of one shape     s_i, weighted sum [1]
//!   slice      y = x[range] of the first axis; dx is dy there and 0 elsewhere. reshape: the same numbers. Neither copies forward.
//!   reference  the loops below
//! ```

use std::ops::Range;

use crate::gpu::{Grid, Real, args};
use crate::ops::blocks;
use crate::tape::{Tape, Var};
use crate::tensor::{Shaped, Tensor, agree};

impl Tape {
    /// a + b, of one shape.
    pub fn add(&mut self, a: Var, b: Var) -> Var {
        let y = both(self.value(a), self.value(b), "add", |a, b| a + b);
        self.record("elementwise", &[a, b], y, |dy| vec![Some(dy.clone()), Some(dy.clone())])
    }

    /// a - b, of one shape.
    pub fn sub(&mut self, a: Var, b: Var) -> Var {
        let y = both(self.value(a), self.value(b), "sub", |a, b| a - b);
        let b_needs = self.needs(b);
        self.record("elementwise", &[a, b], y, move |dy| {
            vec![Some(dy.clone()), b_needs.then(|| times(dy, -1.0))]
        })
    }

    /// c a.
    pub fn scale(&mut self, a: Var, c: f32) -> Var {
        let y = times(self.value(a), c);
        self.record("elementwise", &[a], y, move |dy| vec![Some(times(dy, c))])
    }

    /// Sum of `c s` over pairs of a scalar `s` `[1]` and a weight `c`, to `[1]`.
    pub fn weighted_sum(&mut self, terms: &[(Var, f32)]) -> Var {
        let scalars: Vec<(&Tensor, f32)> = terms.iter().map(|&(s, c)| (self.value(s), c)).collect();
        let y = weighted(&scalars);
        let inputs: Vec<Var> = terms.iter().map(|t| t.0).collect();
        let weights: Vec<f32> = terms.iter().map(|t| t.1).collect();
        self.record("elementwise", &inputs, y, move |dy| {
            weights.iter().map(|&c| Some(times(dy, c))).collect()
        })
    }

    /// Entries `range` of the first axis.
    pub fn slice(&mut self, x: Var, range: Range<usize>) -> Var {
        let y = self.value(x).slice(range.clone());
        let stride: usize = self.value(x).shape()[1..].iter().product();
        self.record_window("elementwise", x, y, range.start * stride)
    }

    /// The same numbers under another shape.
    pub fn reshape(&mut self, x: Var, shape: &[usize]) -> Var {
        let y = self.value(x).reshape(shape);
        let from = self.value(x).shape().to_vec();
        self.record("elementwise", &[x], y, move |dy| vec![Some(dy.reshape(&from))])
    }
}

fn both(a: &Tensor, b: &Tensor, op: &'static str, f: impl Fn(f32, f32) -> f32 + Sync + Send) -> Tensor {
    if agree(op, &[(a, a.shape()), (b, a.shape())], &[]).is_some() {
        let y = a.like(op);
        launch_both(op, &y, a, b);
        return y;
    }
    Tensor::new(a.shape(), blocks::pairs(a.data(), b.data(), f))
}

fn times(x: &Tensor, c: f32) -> Tensor {
    if x.gpu().is_some() {
        let y = x.like("scale y");
        launch_scale(&y, x, c);
        return y;
    }
    Tensor::new(x.shape(), blocks::elements(x.data(), |x| c * x))
}

fn weighted(terms: &[(&Tensor, f32)]) -> Tensor {
    let scalars: Vec<Shaped> = terms.iter().map(|&(s, _)| (s, &[1][..])).collect();
    if let Some(gpu) = agree("weighted_sum", &[], &scalars) {
        let y = Tensor::on(gpu, "weighted_sum y", &[1], Real::F32);
        y.zero();
        terms.iter().for_each(|&(s, c)| launch_term(&y, s, c));
        return y;
    }
    // In f64: the run is judged by this total, whose losses differ widely in size.
    let sum: f64 = terms.iter().map(|&(s, c)| f64::from(s.item()) * f64::from(c)).sum();
    Tensor::scalar(sum as f32)
}

fn launch_both(kernel: &'static str, y: &Tensor, a: &Tensor, b: &Tensor) {
    let args = args![y, a, b, y.len() as u64];
    // SAFETY: all three have one shape and the device's storage.
    unsafe { y.device().launch("elementwise", kernel, Grid::eights(y.len()), &args) };
}

fn launch_scale(y: &Tensor, x: &Tensor, c: f32) {
    let kernel = if x.real() == x.device().real() { "scale" } else { "scale_f32" };
    let args = args![y, x, c, x.len() as u64];
    // SAFETY: y was made like x; what is not in the device's storage is f32.
    unsafe { y.device().launch("elementwise", kernel, Grid::eights(x.len()), &args) };
}

fn launch_term(y: &Tensor, s: &Tensor, c: f32) {
    // SAFETY: both are one f32.
    unsafe { y.device().launch("elementwise", "weighted_sum", Grid::new(1, 32), &args![y, s, c]) };
}
