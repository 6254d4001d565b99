//! Tokens of a set: stacked, picked out, preceded by a learned one (SCALE v1, eq. 31).
//!
//! ```text
//!   forward    tokens   y[b,t] = part_t[b]        token   y[b] = x[b,i]         prepend   y[b,0] = w, y[b,1+t] = x[b,t]
//!   backward   tokens   dpart_t[b] = dy[b,t]      token   dx[b,i] = dy[b]       prepend   dw = sum_b dy[b,0], dx[b,t] = dy[b,1+t]
//!   tensors    part_t [B, D]     x [B, T, D]     w [D]         all gradients =, those of other tokens zero; dw f32 on a device too
//!   reference  the loops below: they only move numbers
//! ```

use crate::gpu::{Grid, Real, args};
use crate::ops::column_sums;
use crate::tape::{Tape, Var};
use crate::tensor::{Shaped, Tensor, agree};

impl Tape {
    /// T values `[B, D]` as tokens `[B, T, D]`.
    pub fn tokens(&mut self, parts: &[Var]) -> Var {
        let values: Vec<&Tensor> = parts.iter().map(|&part| self.value(part)).collect();
        let y = stack(&values);
        let count = parts.len();
        self.record("tokens", parts, y, move |dy| (0..count).map(|t| Some(pick(dy, t))).collect())
    }

    /// Token `i` of each set: x `[B, T, D]` to `[B, D]`.
    ///
    /// # Panics
    /// If there is no such token.
    pub fn token(&mut self, x: Var, i: usize) -> Var {
        let [_, count, _] = self.value(x).dims("token");
        assert!(i < count, "token: {i} of {count}");
        let y = pick(self.value(x), i);
        self.record("tokens", &[x], y, move |dy| vec![Some(amid_zeros(dy, i, count))])
    }

    /// Puts the same token before those of each set: token `[D]`, x `[B, T, D]` to `[B, T + 1, D]`.
    pub fn prepend(&mut self, token: Var, x: Var) -> Var {
        let y = joined(self.value(token), self.value(x));
        self.record("tokens", &[token, x], y, |dy| parted(dy).map(Some).into())
    }
}

/// T values `[B, D]` to `[B, T, D]`.
fn stack(parts: &[&Tensor]) -> Tensor {
    let first = parts.first().expect("tokens: at least one part");
    let [sets, width] = first.dims("tokens");
    let shape = [sets, parts.len(), width];
    let rows: Vec<Shaped> = parts.iter().map(|&part| (part, first.shape())).collect();
    if let Some(gpu) = agree("tokens", &rows, &[]) {
        let y = Tensor::on(gpu, "tokens y", &shape, first.real());
        for (t, part) in parts.iter().enumerate() {
            launch_copy((&y, t * width, parts.len() * width), (part, 0, width), [sets, width]);
        }
        return y;
    }
    let mut y = vec![0.0; shape.iter().product()];
    for (t, part) in parts.iter().enumerate() {
        for (set, row) in y.chunks_exact_mut(parts.len() * width).zip(part.data().chunks_exact(width)) {
            set[t * width..][..width].copy_from_slice(row);
        }
    }
    Tensor::new(&shape, y)
}

/// Token `i` of each set.
fn pick(x: &Tensor, i: usize) -> Tensor {
    let [sets, count, width] = x.dims("token");
    if let Some(gpu) = agree("token", &[(x, x.shape())], &[]) {
        let y = Tensor::on(gpu, "token y", &[sets, width], x.real());
        launch_copy((&y, 0, width), (x, i * width, count * width), [sets, width]);
        return y;
    }
    let rows = x.data().chunks_exact(count * width).flat_map(|set| &set[i * width..][..width]);
    Tensor::new(&[sets, width], rows.copied().collect())
}

/// `count` tokens per set, all zero but the `i`-th: row `[B, D]` to `[B, T, D]`.
fn amid_zeros(row: &Tensor, i: usize, count: usize) -> Tensor {
    let [sets, width] = row.dims("token");
    if let Some(gpu) = row.gpu() {
        let x = Tensor::on(gpu, "token dx", &[sets, count, width], row.real());
        x.zero();
        launch_copy((&x, i * width, count * width), (row, 0, width), [sets, width]);
        return x;
    }
    let mut x = vec![0.0; sets * count * width];
    for (set, row) in x.chunks_exact_mut(count * width).zip(row.data().chunks_exact(width)) {
        set[i * width..][..width].copy_from_slice(row);
    }
    Tensor::new(&[sets, count, width], x)
}

/// w `[D]` before the tokens of x `[B, T, D]`.
fn joined(w: &Tensor, x: &Tensor) -> Tensor {
    let [sets, count, width] = x.dims("prepend");
    let (shape, step) = ([sets, count + 1, width], (count + 1) * width);
    if let Some(gpu) = agree("prepend", &[(w, &[width]), (x, x.shape())], &[]) {
        let y = Tensor::on(gpu, "prepend y", &shape, x.real());
        launch_copy((&y, 0, step), (w, 0, 0), [sets, width]);
        launch_copy((&y, width, step), (x, 0, count * width), [sets, count * width]);
        return y;
    }
    let mut y = Vec::with_capacity(sets * step);
    for b in 0..sets {
        y.extend_from_slice(w.data());
        y.extend_from_slice(&x.data()[b * count * width..][..count * width]);
    }
    Tensor::new(&shape, y)
}

/// dw `[D]` and dx `[B, T, D]` from dy `[B, T + 1, D]`.
fn parted(dy: &Tensor) -> [Tensor; 2] {
    let [sets, tokens, width] = dy.dims("prepend");
    let (shape, step) = ([sets, tokens - 1, width], tokens * width);
    if let Some(gpu) = dy.gpu() {
        let dw = Tensor::on(gpu, "prepend dw", &[width], Real::F32);
        launch_sum(&dw, dy, [sets, width, step]);
        let dx = Tensor::on(gpu, "prepend dx", &shape, dy.real());
        launch_copy((&dx, 0, step - width), (dy, width, step), [sets, step - width]);
        return [dw, dx];
    }
    let (mut dw, mut dx) = (vec![0.0; width], Vec::with_capacity(shape.iter().product()));
    for set in dy.data().chunks_exact(step) {
        dw.iter_mut().zip(set).for_each(|(w, d)| *w += d);
        dx.extend_from_slice(&set[width..]);
    }
    [Tensor::new(&[width], dw), Tensor::new(&shape, dx)]
}

/// Rows of a tensor: the number at which the first begins, and the numbers from one row to the next.
type Rows<'a> = (&'a Tensor, usize, usize);

fn launch_copy((y, y_from, y_step): Rows, (x, x_from, x_step): Rows, [rows, width]: [usize; 2]) {
    let (y, x) = (y.part(y_from, &[y.len() - y_from]), x.part(x_from, &[x.len() - x_from]));
    let args = args![&y, &x, width, y_step as u64, x_step as u64];
    let grid = Grid::plane(rows, width.div_ceil(256 * y.real().pack()), 256);
    // SAFETY: the callers' rows are inside their tensors, which are in the device's storage.
    unsafe { y.device().launch("tokens", "tokens_copy", grid, &args) };
}

fn launch_sum(dw: &Tensor, dy: &Tensor, [rows, width, step]: [usize; 3]) {
    let args = args![dw, dy, rows, width, step as u64];
    let grid = Grid::new(column_sums::groups(dy), 256);
    // SAFETY: dw holds `width` numbers, dy `rows` times `step`, which is more.
    unsafe { dw.device().launch("tokens", "tokens_sum", grid, &args) };
}
