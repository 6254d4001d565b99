//! Attention on the host.
//!
//! ```text
//!   work       whole sets per task; scores exist for 64 queries at a time, and the backward recomputes them from lse
//!   bound by   compute: 4 N^2 K per head forward, 10 N^2 K backward
//! ```

use super::{Found, Given, Sizes};
use crate::ops::blocks;
use crate::ops::gate;
use crate::ops::gemm::{Keep, Mat, MatMut, Threads, product};
use crate::ops::vector::{add_scaled, dot, exp, max, sum};
use crate::tensor::Tensor;

/// Queries whose scores exist at the same time: 64 x 512 scores fill an eighth of a level-2 cache.
const QUERIES: usize = 64;

impl Sizes {
    /// Sets that one task takes: their scratch is allocated once.
    fn group(&self) -> usize {
        blocks::rows(self.rows * self.heads * self.width).min(self.sets.max(1))
    }

    /// Rows `from..to` of part 0, 1 or 2 (q, k, v) of a head in one set's packed rows.
    fn part<'a>(&self, set: &'a [f32], part: usize, head: usize, from: usize, to: usize) -> Mat<'a> {
        let first = from * self.packed() + part * self.out() + head * self.width;
        Mat::strided(&set[first..], to - from, self.width, self.packed())
    }

    fn part_mut<'a>(
        &self,
        set: &'a mut [f32],
        part: usize,
        head: usize,
        from: usize,
        to: usize,
    ) -> MatMut<'a> {
        let first = from * self.packed() + part * self.out() + head * self.width;
        MatMut::strided(&mut set[first..], to - from, self.width, self.packed())
    }

    /// The same columns of one packed row; in a seed, which has no q, part 0 is k.
    fn columns(&self, part: usize, head: usize) -> std::ops::Range<usize> {
        let first = part * self.out() + head * self.width;
        first..first + self.width
    }
}

/// y `[B, N, HK]` and lse `[B, H, N]`.
pub fn forward(qkv: &Tensor, seed: Option<&Tensor>, z: Sizes) -> (Tensor, Tensor) {
    let group = z.group();
    let (y, lse) = blocks::make_fold(z.sets * z.rows * z.out(), group * z.rows * z.out(), |i, block| {
        let mut scores = vec![0.0; QUERIES.min(z.rows) * z.rows];
        let mut lse = vec![0.0; block.len() / z.width];
        let sets = block.chunks_exact_mut(z.rows * z.out()).zip(lse.chunks_exact_mut(z.heads * z.rows));
        for (b, (y, lse)) in sets.enumerate().map(|(b, s)| (i * group + b, s)) {
            let x = &qkv.data()[b * z.rows * z.packed()..][..z.rows * z.packed()];
            let seed = seed.map(|s| &s.data()[b * 2 * z.out()..][..2 * z.out()]);
            for (head, lse) in lse.chunks_exact_mut(z.rows).enumerate() {
                head_forward(&z, x, seed, head, y, lse, &mut scores);
            }
        }
        lse
    });
    let lse = Tensor::new(&[z.sets, z.heads, z.rows], lse.concat());
    (Tensor::new(&[z.sets, z.rows, z.out()], y), lse)
}

fn head_forward(
    z: &Sizes,
    x: &[f32],
    seed: Option<&[f32]>,
    head: usize,
    y: &mut [f32],
    lse: &mut [f32],
    scores: &mut [f32],
) {
    let (k, v) = (z.part(x, 1, head, 0, z.rows), z.part(x, 2, head, 0, z.rows));
    let keep = if seed.is_some() { Keep::Add } else { Keep::Nothing };
    for from in (0..z.rows).step_by(QUERIES) {
        let to = z.rows.min(from + QUERIES);
        let scores = &mut scores[..(to - from) * z.rows];
        let q = z.part(x, 0, head, from, to);
        product(MatMut::new(scores, to - from, z.rows), q, k.t(), Keep::Nothing, Threads::One);
        for (i, p) in (from..to).zip(scores.chunks_exact_mut(z.rows)) {
            let first = seed.map(|s| dot(&x[i * z.packed()..][z.columns(0, head)], &s[z.columns(0, head)]));
            let (row_lse, first) = softmax(p, first, z.scale);
            lse[i] = row_lse;
            if let Some(s) = seed {
                let y = &mut y[i * z.out()..][z.columns(0, head)];
                y.iter_mut().zip(&s[z.columns(1, head)]).for_each(|(y, v)| *y = first * v);
            }
        }
        let y = MatMut::strided(&mut y[from * z.out() + head * z.width..], to - from, z.width, z.out());
        product(y, Mat::new(scores, to - from, z.rows), v, keep, Threads::One);
    }
}

/// Turns a row of products into probabilities; returns lse and the seed's probability.
fn softmax(row: &mut [f32], first: Option<f32>, scale: f32) -> (f32, f32) {
    let first = first.unwrap_or(f32::NEG_INFINITY);
    let top = max(row).max(first);
    row.iter_mut().for_each(|s| *s = exp(scale * (*s - top)));
    let first = exp(scale * (first - top));
    let total = sum(row) + first;
    let share = 1.0 / total;
    row.iter_mut().for_each(|p| *p *= share);
    (scale * top + total.ln(), first * share)
}

/// dx `[B, N, 3HK + 2F]`, dseed `[B, 2HK]` if there is a seed, and y if requested.
pub fn backward(given: &Given, z: Sizes, again: bool) -> Found {
    let Given { dy, qkv, seed, y, lse } = *given;
    let group = z.group();
    let (dx, dseed) = blocks::make_fold(qkv.len(), group * z.rows * z.packed(), |i, block| {
        let mut scratch = Scratch::new(&z);
        let sets = block.len() / (z.rows * z.packed());
        let mut dseed = vec![0.0; if seed.is_some() { sets * 2 * z.out() } else { 0 }];
        for (at, dx) in block.chunks_exact_mut(z.rows * z.packed()).enumerate() {
            let b = i * group + at;
            let row = |width: usize| b * width..(b + 1) * width;
            let set = Set {
                x: &qkv.data()[row(z.rows * z.packed())],
                y: &y.data()[row(z.rows * z.out())],
                dy: &dy.data()[row(z.rows * z.slope())],
                seed: seed.map(|s| &s.data()[row(2 * z.out())]),
            };
            for head in 0..z.heads {
                let lse = &lse.data()[(b * z.heads + head) * z.rows..][..z.rows];
                let dseed = set.seed.is_some().then(|| &mut dseed[at * 2 * z.out()..][..2 * z.out()]);
                head_backward(&z, &set, head, lse, dx, dseed, &mut scratch);
            }
            gates_backward(&z, &set, dx);
        }
        dseed
    });
    let dseed = seed.map(|s| Tensor::new(s.shape(), dseed.concat()));
    let y = again.then(|| if z.gate > 0 { gate::forward(Some(y), qkv, 3 * z.out()) } else { y.clone() });
    Found { dx: Tensor::new(qkv.shape(), dx), dseed, y }
}

/// Gradients of gate and up of a set's rows.
fn gates_backward(z: &Sizes, set: &Set, dx: &mut [f32]) {
    let rows = dx.chunks_exact_mut(z.packed()).zip(set.x.chunks_exact(z.packed()));
    for ((dx, x), dy) in rows.zip(set.dy.chunks_exact(z.slope())) {
        gate::backward_row(&mut dx[3 * z.out()..], &dy[z.out()..], &x[3 * z.out()..]);
    }
}

struct Set<'a> {
    x: &'a [f32],
    y: &'a [f32],
    dy: &'a [f32],
    seed: Option<&'a [f32]>,
}

struct Scratch {
    p: Vec<f32>,
    ds: Vec<f32>,
}

impl Scratch {
    fn new(z: &Sizes) -> Scratch {
        let len = QUERIES.min(z.rows) * z.rows;
        Scratch { p: vec![0.0; len], ds: vec![0.0; len] }
    }
}

fn head_backward(
    z: &Sizes,
    set: &Set,
    head: usize,
    lse: &[f32],
    dx: &mut [f32],
    mut dseed: Option<&mut [f32]>,
    scratch: &mut Scratch,
) {
    let (k, v) = (z.part(set.x, 1, head, 0, z.rows), z.part(set.x, 2, head, 0, z.rows));
    for from in (0..z.rows).step_by(QUERIES) {
        let to = z.rows.min(from + QUERIES);
        let len = (to - from) * z.rows;
        let (p, ds) = (&mut scratch.p[..len], &mut scratch.ds[..len]);
        let q = z.part(set.x, 0, head, from, to);
        let dy = Mat::strided(&set.dy[from * z.slope() + head * z.width..], to - from, z.width, z.slope());
        product(MatMut::new(p, to - from, z.rows), q, k.t(), Keep::Nothing, Threads::One);
        product(MatMut::new(ds, to - from, z.rows), dy, v.t(), Keep::Nothing, Threads::One);
        for (i, (p, ds)) in (from..to).zip(p.chunks_exact_mut(z.rows).zip(ds.chunks_exact_mut(z.rows))) {
            let out = &set.y[i * z.out()..][z.columns(0, head)];
            let slope = &set.dy[i * z.slope()..][z.columns(0, head)];
            let delta = dot(slope, out);
            for (p, ds) in p.iter_mut().zip(ds) {
                *p = exp(z.scale * *p - lse[i]);
                *ds = *p * (*ds - delta) * z.scale;
            }
            if let (Some(seed), Some(dseed)) = (set.seed, dseed.as_deref_mut()) {
                let q = &set.x[i * z.packed()..][z.columns(0, head)];
                let (k, v) = (&seed[z.columns(0, head)], &seed[z.columns(1, head)]);
                let p = exp(z.scale * dot(q, k) - lse[i]);
                let ds = p * (dot(slope, v) - delta) * z.scale;
                let dq = &mut dx[i * z.packed()..][z.columns(0, head)];
                dq.iter_mut().zip(k).for_each(|(dq, k)| *dq = ds * k);
                add_scaled(&mut dseed[z.columns(0, head)], ds, q);
                add_scaled(&mut dseed[z.columns(1, head)], p, slope);
            }
        }
        // The first block of queries writes what the later ones add to; with a seed, dq was already written.
        let keep = if from == 0 { Keep::Nothing } else { Keep::Add };
        let keep_q = if set.seed.is_some() { Keep::Add } else { Keep::Nothing };
        let (p, ds) = (Mat::new(p, to - from, z.rows), Mat::new(ds, to - from, z.rows));
        product(z.part_mut(dx, 0, head, from, to), ds, k, keep_q, Threads::One);
        product(z.part_mut(dx, 1, head, 0, z.rows), ds.t(), q, keep, Threads::One);
        product(z.part_mut(dx, 2, head, 0, z.rows), p.t(), dy, keep, Threads::One);
    }
}
