//! From the cells of a set to the set and back: their mean, and one row added to each of them (SCALE v1, eq. 7-9).
//!
//!   forward    pool        y[b,d]   = mean_i x[b,i,d]             add_to_set   y[b,i,d] = x[b,i,d] + s[b,d]
//!   backward   pool        dx[b,i,d] = dy[b,d] / N      =         add_to_set   dx = dy,  ds[b,d] = sum_i dy[b,i,d]      =
//!   tensors    x [B, N, D]     s [B, D]     pool [B, D]     add_to_set [B, N, D]
//!   bound by   memory
//!   reference  the loops below

use crate::ops::blocks;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

impl Tape {
    /// Mean over the cells of each set: x `[B, N, D]` to `[B, D]`.
    pub fn pool(&mut self, x: Var) -> Var {
        let [_, rows, _] = self.value(x).dims("pool");
        let scale = 1.0 / rows as f32;
        let y = sums(self.value(x), scale);
        self.record(&[x], y, move |dy| vec![Some(spread(dy, rows, scale))])
    }

    /// x plus its set's row: x `[B, N, D]`, s `[B, D]` to `[B, N, D]`.
    pub fn add_to_set(&mut self, x: Var, s: Var) -> Var {
        let [sets, rows, width] = self.value(x).dims("add_to_set");
        let (xs, ss) = (self.value(x), self.value(s));
        assert!(ss.shape() == [sets, width], "add_to_set: x {:?}, s {:?}", xs.shape(), ss.shape());
        let mut y = blocks::copy(xs.data());
        blocks::each(&mut y, rows * width, |b, set| {
            for row in set.chunks_exact_mut(width) {
                row.iter_mut().zip(&ss.data()[b * width..]).for_each(|(y, s)| *y += s);
            }
        });
        let y = Tensor::new(xs.shape(), y);
        let s_needs = self.needs(s);
        self.record(&[x, s], y, move |dy| vec![Some(dy.clone()), s_needs.then(|| sums(dy, 1.0))])
    }
}

/// Sum over the middle axis of `[B, N, D]`, times `scale`.
fn sums(x: &Tensor, scale: f32) -> Tensor {
    let [sets, rows, width] = x.dims("pool");
    let mut y = vec![0.0; sets * width];
    let group = blocks::rows(rows * width);
    blocks::each(&mut y, group * width, |i, block| {
        for (y, set) in
            block.chunks_exact_mut(width).zip(x.data()[i * group * rows * width..].chunks(rows * width))
        {
            for row in set.chunks_exact(width) {
                y.iter_mut().zip(row).for_each(|(y, x)| *y += x);
            }
            y.iter_mut().for_each(|y| *y *= scale);
        }
    });
    Tensor::new(&[sets, width], y)
}

/// Each row `[B, D]` times `scale`, N times: `[B, N, D]`.
fn spread(y: &Tensor, rows: usize, scale: f32) -> Tensor {
    let [sets, width] = y.dims("pool");
    let mut x = vec![0.0; sets * rows * width];
    blocks::each(&mut x, rows * width, |b, set| {
        for row in set.chunks_exact_mut(width) {
            row.iter_mut().zip(&y.data()[b * width..]).for_each(|(x, y)| *x = scale * y);
        }
    });
    Tensor::new(&[sets, rows, width], x)
}
