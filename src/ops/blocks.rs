//! Fixed blocks over all cores.
//!
//! The size of a block depends on the work alone, never on the number of threads: that is what makes sums over blocks
//! repeatable. A single block runs on the calling thread, since waking another one costs more than small work.

use rayon::prelude::*;

/// Numbers in a block of element-wise work: large enough to hide the hand-over, small enough for the level-2 cache.
pub const GRAIN: usize = 1 << 14;

/// Rows in a block of about [`GRAIN`] numbers.
pub fn rows(width: usize) -> usize {
    (GRAIN / width.max(1)).max(1)
}

/// Runs `work(i, block)` for each block of `size` numbers of `out`; the last may be shorter.
pub fn each(out: &mut [f32], size: usize, work: impl Fn(usize, &mut [f32]) + Sync + Send) {
    fold(out, size, work);
}

/// As [`each`], and returns what `work` returned, in the order of the blocks.
pub fn fold<T: Send>(
    out: &mut [f32],
    size: usize,
    work: impl Fn(usize, &mut [f32]) -> T + Sync + Send,
) -> Vec<T> {
    if out.is_empty() {
        return Vec::new();
    }
    if out.len() <= size {
        return vec![work(0, out)];
    }
    out.par_chunks_mut(size).enumerate().map(|(i, block)| work(i, block)).collect()
}

/// Cuts `out` in parts of `part` numbers and each part in blocks of `size`; runs `work(part, first, block)` for each, where
/// `first` is the block's place in its part.
pub fn each_within(
    out: &mut [f32],
    part: usize,
    size: usize,
    work: impl Fn(usize, usize, &mut [f32]) + Sync + Send,
) {
    let blocks: Vec<(usize, usize, &mut [f32])> = out
        .chunks_mut(part)
        .enumerate()
        .flat_map(|(p, part)| part.chunks_mut(size).enumerate().map(move |(i, block)| (p, i * size, block)))
        .collect();
    if blocks.len() == 1 {
        return blocks.into_iter().for_each(|(p, first, block)| work(p, first, block));
    }
    blocks.into_par_iter().with_max_len(1).for_each(|(p, first, block)| work(p, first, block));
}

/// Runs `work(i)` for `i < count` and returns the answers in order.
pub fn map<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync + Send) -> Vec<T> {
    if count == 1 {
        return vec![work(0)];
    }
    (0..count).into_par_iter().map(work).collect()
}

/// Sum of partial sums, first to last. Empty input gives `width` zeros.
pub fn sum(parts: &[Vec<f32>], width: usize) -> Vec<f32> {
    let mut total = vec![0.0f32; width];
    for part in parts {
        for (t, p) in total.iter_mut().zip(part) {
            *t += p;
        }
    }
    total
}

/// Sum over the rows of `x` `[M, width]`: a bias's gradient.
pub fn column_sums(x: &[f32], width: usize) -> Vec<f32> {
    let block = rows(width) * width;
    let parts = map(x.len().div_ceil(block), |i| {
        let mut part = vec![0.0f32; width];
        for row in x[i * block..x.len().min((i + 1) * block)].chunks_exact(width) {
            for (p, v) in part.iter_mut().zip(row) {
                *p += v;
            }
        }
        part
    });
    sum(&parts, width)
}

/// A copy, made by all cores.
pub fn copy(x: &[f32]) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    each(&mut y, 4 * GRAIN, |i, block| {
        let first = i * 4 * GRAIN;
        block.copy_from_slice(&x[first..first + block.len()]);
    });
    y
}

/// `y[i] = f(x[i])`.
pub fn elements(x: &[f32], f: impl Fn(f32) -> f32 + Sync + Send) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    each(&mut y, GRAIN, |i, block| {
        for (y, &x) in block.iter_mut().zip(&x[i * GRAIN..]) {
            *y = f(x);
        }
    });
    y
}

/// `y[i] = f(a[i], b[i])`.
pub fn pairs(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32 + Sync + Send) -> Vec<f32> {
    assert_eq!(a.len(), b.len(), "pairs: {} and {} numbers", a.len(), b.len());
    let mut y = vec![0.0; a.len()];
    each(&mut y, GRAIN, |i, block| {
        for ((y, &a), &b) in block.iter_mut().zip(&a[i * GRAIN..]).zip(&b[i * GRAIN..]) {
            *y = f(a, b);
        }
    });
    y
}
