//! Fixed blocks over all cores.
//!
//! The size of a block depends on the work alone, never on the number of threads: that is what makes sums over blocks
//! repeatable. A single block runs on the calling thread, since waking another one costs more than small work.

use std::mem::MaybeUninit;
use std::ops::Range;

use rayon::prelude::*;

/// Numbers in a block of element-wise work: large enough to hide the cost of handing it over, small enough for the level-2 cache.
pub const GRAIN: usize = 1 << 14;

/// Rows in a block of about [`GRAIN`] numbers.
pub fn rows(width: usize) -> usize {
    (GRAIN / width.max(1)).max(1)
}

/// `rows` in parts of at most `most`.
pub fn parts(rows: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    (0..rows).step_by(most).map(move |first| first..rows.min(first + most))
}

/// Runs `work(i, block)` for each block of `size` numbers of `out`; the last may be shorter.
pub fn each(out: &mut [f32], size: usize, work: impl Fn(usize, &mut [f32]) + Sync + Send) {
    if out.len() <= size {
        if !out.is_empty() {
            work(0, out);
        }
        return;
    }
    out.par_chunks_mut(size).enumerate().for_each(|(i, block)| work(i, block));
}

/// A vector of `len` numbers, each block of `size` written by `work(i, block)`, which receives it zeroed.
///
/// The core that works on a block zeroes it just before, so that the zeros are still in its cache; zeroing the whole vector first
/// would be a walk through memory by one core.
pub fn make(len: usize, size: usize, work: impl Fn(usize, &mut [f32]) + Sync + Send) -> Vec<f32> {
    make_fold(len, size, work).0
}

/// As [`make`], with what `work` returned, in the order of the blocks.
pub fn make_fold<T: Send>(
    len: usize,
    size: usize,
    work: impl Fn(usize, &mut [f32]) -> T + Sync + Send,
) -> (Vec<f32>, Vec<T>) {
    let mut out = Vec::with_capacity(len);
    let answers = match &mut out.spare_capacity_mut()[..len] {
        [] => Vec::new(),
        all if all.len() <= size => vec![work(0, zeroed(all))],
        all => all.par_chunks_mut(size).enumerate().map(|(i, block)| work(i, zeroed(block))).collect(),
    };
    // SAFETY: the blocks are all of the first `len` numbers, and each went through `zeroed`.
    unsafe { out.set_len(len) };
    (out, answers)
}

/// A vector of `parts` parts of `part` numbers, each part in blocks of `size`; `work(part, first, block)` writes a block, which it
/// receives zeroed; `first` is the block's place in its part.
pub fn make_within(
    parts: usize,
    part: usize,
    size: usize,
    work: impl Fn(usize, usize, &mut [f32]) + Sync + Send,
) -> Vec<f32> {
    let len = parts * part;
    let mut out = Vec::with_capacity(len);
    let blocks: Vec<(usize, usize, &mut [MaybeUninit<f32>])> = out.spare_capacity_mut()[..len]
        .chunks_mut(part)
        .enumerate()
        .flat_map(|(p, part)| part.chunks_mut(size).enumerate().map(move |(i, block)| (p, i * size, block)))
        .collect();
    if blocks.len() == 1 {
        blocks.into_iter().for_each(|(p, first, block)| work(p, first, zeroed(block)));
    } else {
        blocks.into_par_iter().with_max_len(1).for_each(|(p, first, block)| work(p, first, zeroed(block)));
    }
    // SAFETY: the blocks are all of the first `len` numbers, and each went through `zeroed`.
    unsafe { out.set_len(len) };
    out
}

/// The block, all zero.
fn zeroed(block: &mut [MaybeUninit<f32>]) -> &mut [f32] {
    block.fill(MaybeUninit::new(0.0));
    // SAFETY: every number has just been written, and `MaybeUninit<f32>` has the layout of f32.
    unsafe { &mut *(std::ptr::from_mut(block) as *mut [f32]) }
}

/// Runs `work(i)` for `i < count` and returns the results in order.
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
    column_sums_of(x, width, |x| x)
}

/// The same for `f` of each number.
pub fn column_sums_of(x: &[f32], width: usize, f: impl Fn(f32) -> f32 + Sync) -> Vec<f32> {
    let block = rows(width) * width;
    let parts = map(x.len().div_ceil(block), |i| {
        let mut part = vec![0.0f32; width];
        for row in x[i * block..x.len().min((i + 1) * block)].chunks_exact(width) {
            for (p, v) in part.iter_mut().zip(row) {
                *p += f(*v);
            }
        }
        part
    });
    sum(&parts, width)
}

/// `y[i] = f(x[i])`.
pub fn elements(x: &[f32], f: impl Fn(f32) -> f32 + Sync + Send) -> Vec<f32> {
    make(x.len(), GRAIN, |i, block| {
        for (y, &x) in block.iter_mut().zip(&x[i * GRAIN..]) {
            *y = f(x);
        }
    })
}

/// `y[i] = f(a[i], b[i])`.
///
/// # Panics
/// If the lengths differ.
pub fn pairs(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32 + Sync + Send) -> Vec<f32> {
    assert_eq!(a.len(), b.len(), "pairs: {} and {} numbers", a.len(), b.len());
    make(a.len(), GRAIN, |i, block| {
        for ((y, &a), &b) in block.iter_mut().zip(&a[i * GRAIN..]).zip(&b[i * GRAIN..]) {
            *y = f(a, b);
        }
    })
}
