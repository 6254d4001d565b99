//! Maximum mean discrepancy between decoded and true cells (Gretton et al. 2012, eq. 5; SCALE v1, eq. 15-16).
//!
//! ```text
//!   forward    L       = mean_b 1/N^2 sum_{i,j} (k(y_i, y_j) + k(x_i, x_j) - 2 k(y_i, x_j))       biased: all pairs, i = j too
//!              gaussian  k(a, b) = mean over s in {1/4, 1/2, 1, 2, 4} of exp(-|a - b|^2 / (2 s v))
//!                        v = max(2 (mean |a|^2 - |mean a|^2), 1e-12) over a set's 2N rows: mean squared distance, no gradient
//!              energy    k(a, b) = -sqrt(|a - b|^2 + 1e-12)
//!   backward   c[i,j]  = 4 / (B N^2) k'(d2[i,j])              k' by the squared distance; negative for pairs (y, x)
//!              dy_i    = dL sum_j c[i,j] (y_i - a_j)          a over the 2N rows                          =
//!   tensors    y, x, dy [B, N, G]     L [1]     x is data: no gradient
//!   work       one set per task. |a - b|^2 = |a|^2 + |b|^2 - 2 a.b, by gemm, with rows centred on the set's mean: distances
//!              stay the same, and what cancels is of the size of the spread, not of the mean. Forward keeps -c, [B, N, 2N].
//!   bound by   compute: forward 6 B N^2 G, backward 4 B N^2 G
//!   repeatable yes: sums run in the order of the rows, in f64
//! ```

use crate::config::MmdKernel;
use crate::ops::blocks;
use crate::ops::gemm::{Keep, Mat, MatMut, Threads, product};
use crate::ops::vector::{dot, exp, squared_distance};
use crate::tape::{Flops, Op, Tape, Var};
use crate::tensor::{Tensor, agree};

mod device;
mod hopper;

impl Tape {
    /// Biased squared discrepancy, mean over sets: y and x `[B, N, G]` to `[1]`. Only y gets a gradient; x is data.
    /// The scale of the Gaussian, which both set, counts as constant, so that the gradient is not the loss's whole derivative.
    ///
    /// # Panics
    /// If x needs a gradient.
    pub fn mmd(&mut self, y: Var, x: Var, kernel: MmdKernel) -> Var {
        assert!(!self.needs(x), "mmd: x is data, and gets no gradient");
        let (ys, xs) = (self.value(y).clone(), self.value(x).clone());
        let (loss, saved) = forward(&ys, &xs, kernel, self.needs(y));
        let [_, rows, _] = ys.dims("mmd");
        let product = 4 * rows * ys.len(); // each pair once
        let op = Op::of("mmd", Flops { forward: product, backward: product, reading: 0 });
        self.record(op, &[y, x], loss, move |d| {
            let saved = saved.expect("kept where a gradient is needed");
            vec![Some(backward(d, &ys, &xs, &saved)), None]
        })
    }
}

/// What forward saves for the gradient of y.
#[derive(Debug)]
pub struct Saved {
    /// `[B, N, 2N]`: the weight of each row of `[y | x]` in the gradient of each y. On a device the diagonal, a row's weight in its
    /// own gradient, is left out: see `pulls`.
    weights: Tensor,
    /// `[B, N, tiles]`, on a device only: the weight of a row in its own gradient, in parts of a sum.
    pulls: Option<Tensor>,
}

/// The loss `[1]`, and what its gradient needs, if that is wanted.
///
/// # Panics
/// If there are no numbers, of which there is no mean.
pub fn forward(y: &Tensor, x: &Tensor, kernel: MmdKernel, wanted: bool) -> (Tensor, Option<Saved>) {
    let [sets, rows, _] = y.dims("mmd");
    assert!(!y.is_empty(), "mmd: no mean of {:?}", y.shape());
    if let Some(gpu) = agree("mmd", &[(y, y.shape()), (x, y.shape())], &[]) {
        return device::forward(gpu, y, x, kernel, wanted);
    }
    let size = y.len() / sets;
    let parts = blocks::map(sets, |b| {
        let set = b * size..(b + 1) * size;
        let pairs = Pairs::new(&y.data()[set.clone()], &x.data()[set], rows, kernel);
        let c = if wanted { pairs.weights(sets) } else { Vec::new() };
        (pairs.discrepancy(), c)
    });
    let loss = parts.iter().map(|p| p.0).sum::<f64>() / sets as f64;
    let weights: Vec<f32> = parts.into_iter().flat_map(|p| p.1).collect();
    let saved = || Saved { weights: Tensor::new(&[sets, rows, 2 * rows], weights), pulls: None };
    (Tensor::scalar(loss as f32), wanted.then(saved))
}

/// dy `[B, N, G]` from dL `[1]` and what forward saved.
pub fn backward(d: &Tensor, y: &Tensor, x: &Tensor, saved: &Saved) -> Tensor {
    let [sets, rows, width] = y.dims("mmd");
    let reals = [(y, y.shape()), (x, y.shape()), (&saved.weights, &[sets, rows, 2 * rows])];
    if let Some(gpu) = agree("mmd", &reals, &[(d, &[1])]) {
        return device::backward(gpu, d, y, x, saved);
    }
    let (d, weights) = (d.item(), saved.weights.data());
    let size = rows * width;
    let dy = blocks::make(y.len(), size, |b, block| {
        let w: Vec<f32> = weights[b * 2 * rows * rows..][..2 * rows * rows].iter().map(|w| d * w).collect();
        for (part, keep) in [(y, Keep::Nothing), (x, Keep::Add)] {
            let first = if keep == Keep::Add { rows } else { 0 };
            let w = Mat::strided(&w[first..], rows, rows, 2 * rows);
            let part = Mat::new(&part.data()[b * size..], rows, width);
            product(MatMut::new(block, rows, width), w, part, keep, Threads::One);
        }
    });
    Tensor::new(y.shape(), dy)
}

/// One set: squared distances of its pairs.
struct Pairs {
    rows: usize,
    kernel: MmdKernel,
    /// v, the kernel's scale.
    scale: f32,
    /// `[N, 2N]`: y to y, then y to x.
    from_y: Vec<f32>,
    /// `[N, N]`: x to x.
    from_x: Vec<f32>,
}

impl Pairs {
    fn new(y: &[f32], x: &[f32], rows: usize, kernel: MmdKernel) -> Pairs {
        let width = y.len() / rows;
        let a = centred(y, x, width);
        let norms: Vec<f32> = a.chunks_exact(width).map(|row| dot(row, row)).collect();
        // The rows' mean is now next to zero, so only the first term of v's closed form remains.
        let mean = norms.iter().map(|&n| f64::from(n)).sum::<f64>() / norms.len() as f64;
        let scale = (2.0 * mean).max(1e-12) as f32;
        let (mut from_y, mut from_x) = (vec![0.0; 2 * rows * rows], vec![0.0; rows * rows]);
        let all = Mat::new(&a, 2 * rows, width);
        let (first, last) = (Mat::new(&a, rows, width), Mat::new(&a[rows * width..], rows, width));
        product(MatMut::new(&mut from_y, rows, 2 * rows), first, all.t(), Keep::Nothing, Threads::One);
        product(MatMut::new(&mut from_x, rows, rows), last, last.t(), Keep::Nothing, Threads::One);
        for i in 0..rows {
            distances(&mut from_y[i * 2 * rows..][..2 * rows], norms[i], &norms);
            from_y[i * 2 * rows + i] = 0.0;
            distances(&mut from_x[i * rows..][..rows], norms[rows + i], &norms[rows..]);
            from_x[i * rows + i] = 0.0;
        }
        let mut pairs = Pairs { rows, kernel, scale, from_y, from_x };
        if kernel == MmdKernel::Energy {
            pairs.measure_neighbours(&a, &norms);
        }
        pairs
    }

    /// Measures near pairs again, from the rows' difference: cancellation leaves an error whose square root would be far from zero.
    fn measure_neighbours(&mut self, a: &[f32], norms: &[f32]) {
        const NEAR: f32 = 1e-4;
        let (n, width) = (self.rows, a.len() / norms.len());
        let row = |i: usize| &a[i * width..][..width];
        let exact = |i: usize, j: usize| squared_distance(row(i), row(j));
        for i in 0..n {
            for j in 0..2 * n {
                let d2 = &mut self.from_y[i * 2 * n + j];
                if i != j && *d2 < NEAR * (norms[i] + norms[j]) {
                    *d2 = exact(i, j);
                }
            }
            for j in 0..n {
                let d2 = &mut self.from_x[i * n + j];
                if i != j && *d2 < NEAR * (norms[n + i] + norms[n + j]) {
                    *d2 = exact(n + i, n + j);
                }
            }
        }
    }

    fn discrepancy(&self) -> f64 {
        let n = self.rows;
        let mut total = self.row_sum(&self.from_x);
        for row in self.from_y.chunks_exact(2 * n) {
            total += self.row_sum(&row[..n]) - 2.0 * self.row_sum(&row[n..]);
        }
        total / (n * n) as f64
    }

    /// Sum of the kernel over squared distances.
    fn row_sum(&self, d2: &[f32]) -> f64 {
        const PIECE: usize = 64;
        let c = -1.0 / (8.0 * self.scale);
        let pieces = d2.chunks(PIECE).map(|piece| match self.kernel {
            MmdKernel::Gaussian => {
                piece.iter().map(|&d2| powers(exp(c * d2)).iter().sum::<f32>() / 5.0).sum::<f32>()
            }
            MmdKernel::Energy => piece.iter().map(|&d2| -(d2 + 1e-12).sqrt()).sum(),
        });
        pieces.map(f64::from).sum()
    }

    /// The weight of each row in the gradient of each y: -c, and on the diagonal the sum of the row's other c.
    fn weights(&self, sets: usize) -> Vec<f32> {
        let n = self.rows;
        let scale = 4.0 / (sets * n * n) as f32;
        let mut w = vec![0.0; self.from_y.len()];
        for (i, (w, d2)) in w.chunks_exact_mut(2 * n).zip(self.from_y.chunks_exact(2 * n)).enumerate() {
            self.slopes(&mut w[..n], &d2[..n], -scale);
            self.slopes(&mut w[n..], &d2[n..], scale);
            w[i] = 0.0;
            w[i] = -w.iter().map(|&w| f64::from(w)).sum::<f64>() as f32;
        }
        w
    }

    /// `w = factor * k'(d2)`.
    fn slopes(&self, w: &mut [f32], d2: &[f32], factor: f32) {
        match self.kernel {
            MmdKernel::Gaussian => {
                let (c, factor) = (-1.0 / (8.0 * self.scale), -factor / (10.0 * self.scale));
                for (w, &d2) in w.iter_mut().zip(d2) {
                    let [e4, e2, e1, half, quarter] = powers(exp(c * d2));
                    *w = factor * (0.25 * e4 + 0.5 * e2 + e1 + 2.0 * half + 4.0 * quarter);
                }
            }
            MmdKernel::Energy => {
                for (w, &d2) in w.iter_mut().zip(d2) {
                    // Equal rows exert no pull; their huge slope would only add the noise of two sums that cancel.
                    *w = if d2 == 0.0 { 0.0 } else { -0.5 * factor / (d2 + 1e-12).sqrt() };
                }
            }
        }
    }
}

/// e^(z/4), and from it by squaring e^(z/2), e^z, e^(2z), e^(4z): the scales 4, 2, 1, 1/2, 1/4.
#[inline(always)]
fn powers(e4: f32) -> [f32; 5] {
    let e2 = e4 * e4;
    let e1 = e2 * e2;
    let half = e1 * e1;
    [e4, e2, e1, half, half * half]
}

/// The rows of y, then of x, less their common mean.
fn centred(y: &[f32], x: &[f32], width: usize) -> Vec<f32> {
    let count = (y.len() + x.len()) / width;
    // Any shift leaves the distances as they are: the mean need not be exact.
    let mut mean = vec![0.0f32; width];
    for row in y.chunks_exact(width).chain(x.chunks_exact(width)) {
        mean.iter_mut().zip(row).for_each(|(m, v)| *m += v);
    }
    mean.iter_mut().for_each(|m| *m /= count as f32);
    let mut a = Vec::with_capacity(y.len() + x.len());
    for row in y.chunks_exact(width).chain(x.chunks_exact(width)) {
        a.extend(row.iter().zip(&mean).map(|(v, m)| v - m));
    }
    a
}

/// Turns products with one row into squared distances from it.
fn distances(products: &mut [f32], norm: f32, norms: &[f32]) {
    for (p, n) in products.iter_mut().zip(norms) {
        let d2 = norm + n - 2.0 * *p;
        *p = if d2 < 0.0 { 0.0 } else { d2 };
    }
}

/// The definition, in plain loops over f64.
pub mod reference {
    use crate::config::MmdKernel;

    /// v of one set.
    pub fn scale(y: &[f64], x: &[f64], width: usize) -> f64 {
        let rows: Vec<&[f64]> = y.chunks(width).chain(x.chunks(width)).collect();
        let pairs = rows.iter().flat_map(|a| rows.iter().map(|b| distance(a, b))).sum::<f64>();
        (pairs / (rows.len() * rows.len()) as f64).max(1e-12)
    }

    /// In eight independent sums: a single one would wait for each addition, and the largest check makes 10^10 of them.
    fn distance(a: &[f64], b: &[f64]) -> f64 {
        let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
        let mut sums = [0.0; 8];
        for (a, b) in a.iter().zip(b) {
            for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
                *sum += (a - b).powi(2);
            }
        }
        let rest = a_rest.iter().zip(b_rest).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
        sums.iter().sum::<f64>() + rest
    }

    const SCALES: [f64; 5] = [0.25, 0.5, 1.0, 2.0, 4.0];

    fn value(d2: f64, v: f64, kernel: MmdKernel) -> f64 {
        match kernel {
            MmdKernel::Gaussian => SCALES.iter().map(|s| (-d2 / (2.0 * s * v)).exp()).sum::<f64>() / 5.0,
            MmdKernel::Energy => -(d2 + 1e-12).sqrt(),
        }
    }

    fn slope(d2: f64, v: f64, kernel: MmdKernel) -> f64 {
        match kernel {
            MmdKernel::Gaussian => {
                SCALES.iter().map(|s| -(-d2 / (2.0 * s * v)).exp() / (2.0 * s * v)).sum::<f64>() / 5.0
            }
            MmdKernel::Energy => -0.5 / (d2 + 1e-12).sqrt(),
        }
    }

    /// The discrepancy of one set with kernel scale v.
    pub fn forward(y: &[f64], x: &[f64], width: usize, v: f64, kernel: MmdKernel) -> f64 {
        let mean = |a: &[f64], b: &[f64]| {
            let pairs = a.chunks(width).flat_map(|a| b.chunks(width).map(move |b| distance(a, b)));
            let n = (a.len() / width * (b.len() / width)) as f64;
            pairs.map(|d2| value(d2, v, kernel)).sum::<f64>() / n
        };
        mean(y, y) + mean(x, x) - 2.0 * mean(y, x)
    }

    /// Its gradient with respect to y.
    pub fn backward(y: &[f64], x: &[f64], width: usize, v: f64, kernel: MmdKernel) -> Vec<f64> {
        let rows = (y.len() / width) as f64;
        let mut dy = vec![0.0; y.len()];
        for (dy, a) in dy.chunks_mut(width).zip(y.chunks(width)) {
            for (other, sign) in [(y, 1.0), (x, -1.0)] {
                for b in other.chunks(width) {
                    let c = 4.0 * sign / (rows * rows) * slope(distance(a, b), v, kernel);
                    for (g, dy) in dy.iter_mut().enumerate() {
                        *dy += c * (a[g] - b[g]);
                    }
                }
            }
        }
        dy
    }
}
