//! From the cells of a set to the set and back: their mean, and one row added to each of them (SCALE v1, eq. 7-9).
//!
//! ```text
//!   forward    pool        y[b,d]   = mean_i x[b,i,d]             add_to_set   y[b,i,d] = x[b,i,d] + s[b,d]
//!   backward   pool        dx[b,i,d] = dy[b,d] / N      =         add_to_set   dx = dy,  ds[b,d] = sum_i dy[b,i,d]      =
//!   tensors    x [B, N, D]     s [B, D]     pool [B, D]     add_to_set [B, N, D]
//!   bound by   memory
//!   reference  the loops below
//! ```

use crate::gpu::{Grid, args};
use crate::ops::blocks;
use crate::ops::column_sums;
use crate::tape::{Tape, Var};
use crate::tensor::{Tensor, agree};

impl Tape {
    /// Mean over the cells of each set: x `[B, N, D]` to `[B, D]`.
    ///
    /// # Panics
    /// If there are no numbers, of which there is no mean.
    pub fn pool(&mut self, x: Var) -> Var {
        let [_, rows, _] = self.value(x).dims("pool");
        assert!(!self.value(x).is_empty(), "pool: no mean of {:?}", self.value(x).shape());
        let scale = 1.0 / rows as f32;
        let y = sums(self.value(x), scale);
        self.record("pool", &[x], y, move |dy| vec![Some(spread(dy, rows, scale))])
    }

    /// x plus its set's row: x `[B, N, D]`, s `[B, D]` to `[B, N, D]`.
    pub fn add_to_set(&mut self, x: Var, s: Var) -> Var {
        let [sets, rows, width] = self.value(x).dims("add_to_set");
        let (xs, ss) = (self.value(x), self.value(s));
        let y = added(xs, ss, [sets, rows, width]);
        let s_needs = self.needs(s);
        self.record("pool", &[x, s], y, move |dy| vec![Some(dy.clone()), s_needs.then(|| sums(dy, 1.0))])
    }
}

/// x `[B, N, D]` plus its set's row of s `[B, D]`.
fn added(x: &Tensor, s: &Tensor, [sets, rows, width]: [usize; 3]) -> Tensor {
    if agree("add_to_set", &[(x, x.shape()), (s, &[sets, width])], &[]).is_some() {
        let y = x.like("add_to_set y");
        launch_add(&y, x, s, [sets, rows, width]);
        return y;
    }
    let y = blocks::make(x.len(), rows * width, |b, set| {
        let cells = set.chunks_exact_mut(width).zip(x.data()[b * rows * width..].chunks_exact(width));
        for (row, x) in cells {
            row.iter_mut().zip(x).zip(&s.data()[b * width..]).for_each(|((y, x), s)| *y = x + s);
        }
    });
    Tensor::new(x.shape(), y)
}

/// Sum over the middle axis of `[B, N, D]`, times `scale`.
fn sums(x: &Tensor, scale: f32) -> Tensor {
    let [sets, rows, width] = x.dims("pool");
    if let Some(gpu) = agree("pool", &[(x, x.shape())], &[]) {
        let y = Tensor::on(gpu, "pool y", &[sets, width], x.real());
        launch_sums(&y, x, [sets, rows, width], scale);
        return y;
    }
    let group = blocks::rows(rows * width);
    let y = blocks::make(sets * width, group * width, |i, block| {
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
    if let Some(gpu) = agree("pool", &[(y, y.shape())], &[]) {
        let x = Tensor::on(gpu, "pool dx", &[sets, rows, width], y.real());
        launch_spread(&x, y, [sets, rows, width], scale);
        return x;
    }
    let x = blocks::make(sets * rows * width, rows * width, |b, set| {
        for row in set.chunks_exact_mut(width) {
            row.iter_mut().zip(&y.data()[b * width..]).for_each(|(x, y)| *x = scale * y);
        }
    });
    Tensor::new(&[sets, rows, width], x)
}

fn launch_sums(y: &Tensor, x: &Tensor, [sets, rows, width]: [usize; 3], scale: f32) {
    // As many warps as there are rows to share out, and no fewer threads than a block has columns.
    let grid = Grid::plane(sets, column_sums::groups(x), 32 * rows.clamp(8, 32) as u32);
    let args = args![y, x, rows, width, scale];
    // SAFETY: x is [sets, rows, width], y was made for one row per set.
    unsafe { y.device().launch("pool", "pool_forward", grid, &args) };
}

fn launch_spread(dx: &Tensor, dy: &Tensor, [sets, rows, width]: [usize; 3], scale: f32) {
    let args = args![dx, dy, sets, rows, width, scale];
    // SAFETY: dx was made as [sets, rows, width], dy holds one row per set.
    unsafe { dx.device().launch("pool", "pool_backward", by_packs(dx), &args) };
}

fn launch_add(y: &Tensor, x: &Tensor, s: &Tensor, [sets, rows, width]: [usize; 3]) {
    let args = args![y, x, s, sets, rows, width];
    // SAFETY: y was made like x, [sets, rows, width]; s holds one row per set.
    unsafe { y.device().launch("pool", "add_to_set_forward", by_packs(y), &args) };
}

/// One thread per 16 bytes of a set of `[B, N, D]`.
fn by_packs(x: &Tensor) -> Grid {
    let [sets, rows, width] = x.dims("pool");
    Grid::of_sets(sets, (rows * width).div_ceil(256 * x.real().pack()), 256)
}
