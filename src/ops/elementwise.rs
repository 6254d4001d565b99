//! Sums and the shapes of what lies still: add, sub, scale, weighted_sum, slice, reshape.
//!
//!   forward    y = a + b      y = a - b       y = c a     y = sum_i c_i s_i
//!   backward   da = dy        da = dy         da = c dy   ds_i = c_i dy          all =
//!              db = dy        db = -dy
//!   tensors    a, b, y [..] of one shape     s_i, weighted sum [1]
//!   slice      y = x[range] of the first axis; dx is dy there and 0 elsewhere. reshape: the same numbers. Neither copies forward.
//!   reference  the loops below

use std::ops::Range;

use crate::ops::blocks;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

impl Tape {
    /// a + b, of one shape.
    pub fn add(&mut self, a: Var, b: Var) -> Var {
        let y = both(self.value(a), self.value(b), "add", |a, b| a + b);
        self.record(&[a, b], y, |dy| vec![Some(dy.clone()), Some(dy.clone())])
    }

    /// a - b, of one shape.
    pub fn sub(&mut self, a: Var, b: Var) -> Var {
        let y = both(self.value(a), self.value(b), "sub", |a, b| a - b);
        let b_needs = self.needs(b);
        self.record(&[a, b], y, move |dy| vec![Some(dy.clone()), b_needs.then(|| times(dy, -1.0))])
    }

    /// c a.
    pub fn scale(&mut self, a: Var, c: f32) -> Var {
        let y = times(self.value(a), c);
        self.record(&[a], y, move |dy| vec![Some(times(dy, c))])
    }

    /// Sum of `c s` over pairs of a scalar `s` `[1]` and a weight `c`, to `[1]`.
    pub fn weighted_sum(&mut self, terms: &[(Var, f32)]) -> Var {
        // In f64: a total of losses of very different size is what the run is judged by.
        let y: f64 = terms.iter().map(|&(s, c)| f64::from(self.value(s).item()) * f64::from(c)).sum();
        let inputs: Vec<Var> = terms.iter().map(|t| t.0).collect();
        let weights: Vec<f32> = terms.iter().map(|t| t.1).collect();
        self.record(&inputs, Tensor::scalar(y as f32), move |dy| {
            weights.iter().map(|c| Some(Tensor::scalar(c * dy.item()))).collect()
        })
    }

    /// Entries `range` of the first axis.
    pub fn slice(&mut self, x: Var, range: Range<usize>) -> Var {
        let y = self.value(x).slice(range.clone());
        let shape = self.value(x).shape().to_vec();
        self.record(&[x], y, move |dy| {
            let stride: usize = shape[1..].iter().product();
            let mut dx = Tensor::zeros(&shape).into_vec();
            dx[range.start * stride..range.end * stride].copy_from_slice(dy.data());
            vec![Some(Tensor::new(&shape, dx))]
        })
    }

    /// The same numbers under another shape.
    pub fn reshape(&mut self, x: Var, shape: &[usize]) -> Var {
        let y = self.value(x).reshape(shape);
        let from = self.value(x).shape().to_vec();
        self.record(&[x], y, move |dy| vec![Some(dy.reshape(&from))])
    }
}

fn both(a: &Tensor, b: &Tensor, op: &str, f: impl Fn(f32, f32) -> f32 + Sync + Send) -> Tensor {
    assert!(a.shape() == b.shape(), "{op}: {:?} and {:?}", a.shape(), b.shape());
    Tensor::new(a.shape(), blocks::pairs(a.data(), b.data(), f))
}

fn times(a: &Tensor, c: f32) -> Tensor {
    Tensor::new(a.shape(), blocks::elements(a.data(), |a| c * a))
}
