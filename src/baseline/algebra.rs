//! The small amount of dense linear algebra that baselines need, in f64, row-major, with a fixed order of summation.

use rayon::prelude::*;

use crate::rng::Rng;

/// A dense matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    /// Number of rows.
    pub rows: usize,
    /// Numbers per row.
    pub cols: usize,
    /// Row after row.
    pub data: Vec<f64>,
}

impl Matrix {
    /// All zero.
    pub fn zeros(rows: usize, cols: usize) -> Matrix {
        Matrix { rows, cols, data: vec![0.0; rows * cols] }
    }

    /// `at(row, column)` everywhere.
    pub fn from_fn(rows: usize, cols: usize, at: impl Fn(usize, usize) -> f64) -> Matrix {
        let data = (0..rows * cols).map(|i| at(i / cols, i % cols)).collect();
        Matrix { rows, cols, data }
    }

    /// Row `i`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, i: usize) -> &[f64] {
        &self.data[i * self.cols..(i + 1) * self.cols]
    }

    /// The transpose.
    pub fn transposed(&self) -> Matrix {
        Matrix::from_fn(self.cols, self.rows, |i, j| self.data[j * self.cols + i])
    }

    /// self other.
    ///
    /// # Panics
    /// If `other` has not as many rows as this has columns.
    pub fn times(&self, other: &Matrix) -> Matrix {
        assert!(
            self.cols == other.rows,
            "times: {}x{} by {}x{}",
            self.rows,
            self.cols,
            other.rows,
            other.cols
        );
        let mut product = Matrix::zeros(self.rows, other.cols);
        if product.data.is_empty() {
            return product;
        }
        product.data.par_chunks_mut(other.cols).enumerate().for_each(|(i, out)| {
            for (k, &factor) in self.row(i).iter().enumerate() {
                out.iter_mut().zip(other.row(k)).for_each(|(o, x)| *o += factor * x);
            }
        });
        product
    }

    /// self self^T, `[rows, rows]`.
    pub fn gram(&self) -> Matrix {
        let n = self.rows;
        let mut gram = Matrix::zeros(n, n);
        // max: chunks of nothing are refused.
        gram.data.par_chunks_mut(n.max(1)).enumerate().for_each(|(i, out)| {
            out[..=i].iter_mut().enumerate().for_each(|(j, o)| *o = dot(self.row(i), self.row(j)));
        });
        for i in 0..n {
            (i + 1..n).for_each(|j| gram.data[i * n + j] = gram.data[j * n + i]);
        }
        gram
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// Eigenvalues, largest first, and eigenvectors (the rows of the matrix) of a symmetric matrix: cyclic Jacobi rotations. For
/// small matrices: each sweep costs 4 n^3.
///
/// # Panics
/// If it is not square.
pub fn eigen(symmetric: &Matrix) -> (Vec<f64>, Matrix) {
    let n = symmetric.rows;
    assert!(n == symmetric.cols, "eigen: {n}x{}", symmetric.cols);
    let mut a = symmetric.clone();
    let mut vectors = Matrix::from_fn(n, n, |i, j| f64::from(u8::from(i == j)));
    let size = dot(&a.data, &a.data);
    for _sweep in 0..60 {
        let off: f64 = (0..n).map(|i| a.row(i)[i + 1..].iter().map(|x| x * x).sum::<f64>()).sum();
        if off <= 1e-26 * size {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                rotate(&mut a, &mut vectors, p, q);
            }
        }
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| a.data[j * n + j].total_cmp(&a.data[i * n + i]).then(i.cmp(&j)));
    let values = order.iter().map(|&i| a.data[i * n + i]).collect();
    (values, Matrix::from_fn(n, n, |i, j| vectors.data[order[i] * n + j]))
}

/// Turns the axes p and q so that a[p, q] becomes 0 (Golub & Van Loan, section 8.5).
fn rotate(a: &mut Matrix, vectors: &mut Matrix, p: usize, q: usize) {
    let n = a.rows;
    let apq = a.data[p * n + q];
    if apq == 0.0 {
        return;
    }
    let theta = (a.data[q * n + q] - a.data[p * n + p]) / (2.0 * apq);
    // The smaller of the two possible angles.
    let tan = theta.signum() / (theta.abs() + theta.hypot(1.0));
    let cos = 1.0 / tan.hypot(1.0);
    let sin = tan * cos;
    for k in 0..n {
        let (x, y) = (a.data[k * n + p], a.data[k * n + q]);
        a.data[k * n + p] = cos * x - sin * y;
        a.data[k * n + q] = sin * x + cos * y;
    }
    for m in [a, vectors] {
        for k in 0..n {
            let (x, y) = (m.data[p * n + k], m.data[q * n + k]);
            m.data[p * n + k] = cos * x - sin * y;
            m.data[q * n + k] = sin * x + cos * y;
        }
    }
}

/// The `count` largest eigenpairs of a symmetric positive semi-definite matrix, as returned by [`eigen`]: subspace iteration
/// with Rayleigh-Ritz, from a fixed random start. Each vector's largest entry is positive.
///
/// # Panics
/// If it is not square.
pub fn top_eigen(symmetric: &Matrix, count: usize) -> (Vec<f64>, Matrix) {
    let n = symmetric.rows;
    let count = count.min(n);
    // A few more than requested: the wanted ones then converge at the rate of the gap to the last of these.
    let block = (count + 8).min(n);
    let start = Rng::new(0);
    let mut basis = Matrix::from_fn(block, n, |i, j| f64::from(start.normal((i * n + j) as u64)));
    orthonormalise(&mut basis);
    let mut values = vec![0.0; block];
    for _ in 0..500 {
        let mut image = basis.times(symmetric);
        let (ritz, turn) = eigen(&image.times(&basis.transposed()));
        let moved = (0..count).map(|i| (ritz[i] - values[i]).abs()).fold(0.0, f64::max);
        let largest = ritz.first().copied().unwrap_or(0.0);
        basis = turn.times(&basis);
        values = ritz;
        if moved <= 1e-13 * largest {
            break;
        }
        image = turn.times(&image);
        orthonormalise(&mut image);
        basis = image;
    }
    let mut vectors = Matrix { rows: count, cols: n, data: basis.data[..count * n].to_vec() };
    for row in vectors.data.chunks_exact_mut(n.max(1)) {
        let largest = row.iter().fold(0.0f64, |best, &x| if x.abs() > best.abs() { x } else { best });
        row.iter_mut().for_each(|x| *x *= largest.signum());
    }
    values.truncate(count);
    (values, vectors)
}

/// Gram-Schmidt, applied twice to each row in turn. A row that depends on those before it becomes zero.
fn orthonormalise(rows: &mut Matrix) {
    let n = rows.cols;
    for i in 0..rows.rows {
        let (before, rest) = rows.data.split_at_mut(i * n);
        let row = &mut rest[..n];
        let length = dot(row, row).sqrt();
        for _ in 0..2 {
            for other in before.chunks_exact(n) {
                let part = dot(row, other);
                row.iter_mut().zip(other).for_each(|(x, y)| *x -= part * y);
            }
        }
        let left = dot(row, row).sqrt();
        let scale = if left > 1e-12 * length { 1.0 / left } else { 0.0 };
        row.iter_mut().for_each(|x| *x *= scale);
    }
}

/// X with (a + ridge I) X = b, `a` symmetric positive semi-definite, `ridge` > 0: Cholesky.
///
/// # Panics
/// If the sizes do not fit, or `a` is not positive semi-definite.
pub fn solve_ridge(a: &Matrix, ridge: f64, b: &Matrix) -> Matrix {
    let n = a.rows;
    assert!(n == a.cols && n == b.rows, "solve_ridge: {n}x{} by {}x{}", a.cols, b.rows, b.cols);
    let mut l = a.clone();
    for j in 0..n {
        let pivot = a.data[j * n + j] + ridge - dot(&l.row(j)[..j], &l.row(j)[..j]);
        assert!(pivot > 0.0, "solve_ridge: pivot {pivot} of row {j}; the matrix is not positive");
        l.data[j * n + j] = pivot.sqrt();
        for i in j + 1..n {
            let rest = a.data[i * n + j] - dot(&l.row(i)[..j], &l.row(j)[..j]);
            l.data[i * n + j] = rest / l.data[j * n + j];
        }
    }
    let mut x = b.clone();
    for column in 0..b.cols {
        let at = |i: usize| i * b.cols + column;
        for i in 0..n {
            let known: f64 = (0..i).map(|k| l.data[i * n + k] * x.data[at(k)]).sum();
            x.data[at(i)] = (x.data[at(i)] - known) / l.data[i * n + i];
        }
        for i in (0..n).rev() {
            let known: f64 = (i + 1..n).map(|k| l.data[k * n + i] * x.data[at(k)]).sum();
            x.data[at(i)] = (x.data[at(i)] - known) / l.data[i * n + i];
        }
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(rows: usize, cols: usize, seed: u64) -> Matrix {
        Matrix::from_fn(rows, cols, |i, j| f64::from(Rng::new(seed).normal((i * cols + j) as u64)))
    }

    fn far(a: &Matrix, b: &Matrix) -> f64 {
        a.data.iter().zip(&b.data).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max)
    }

    /// V^T diag(values) V.
    fn rebuilt(values: &[f64], vectors: &Matrix) -> Matrix {
        let scaled = Matrix::from_fn(vectors.rows, vectors.cols, |i, j| values[i] * vectors.row(i)[j]);
        vectors.transposed().times(&scaled)
    }

    #[test]
    fn eigenvectors_rebuild_their_matrix() {
        for n in [1, 2, 7, 33] {
            let a = random(n, n + 3, 1).gram();
            let (values, vectors) = eigen(&a);
            assert!(far(&rebuilt(&values, &vectors), &a) < 1e-10, "n {n}");
            assert!(far(&vectors.gram(), &Matrix::from_fn(n, n, |i, j| f64::from(u8::from(i == j)))) < 1e-12);
            assert!(values.windows(2).all(|pair| pair[0] >= pair[1]));
        }
    }

    #[test]
    fn the_largest_eigenpairs_are_those_of_the_whole_matrix() {
        let a = random(60, 61, 2).gram();
        let (all, vectors) = eigen(&a);
        let (top, found) = top_eigen(&a, 5);
        for i in 0..5 {
            assert!((top[i] / all[i] - 1.0).abs() < 1e-10);
            let cosine = dot(vectors.row(i), found.row(i)).abs();
            assert!((cosine - 1.0).abs() < 1e-6, "pair {i}: cosine {cosine}");
        }
    }

    #[test]
    fn a_matrix_of_low_rank_gives_zeros_and_no_trouble() {
        let a = random(20, 2, 3).gram();
        let (values, vectors) = top_eigen(&a, 4);
        assert!(values[1] > 1.0 && values[2].abs() < 1e-9 && values[3].abs() < 1e-9, "{values:?}");
        assert!(far(&rebuilt(&values, &vectors), &a) < 1e-9);
    }

    #[test]
    fn a_ridge_solution_solves_its_equations() {
        let (a, b) = (random(9, 4, 4).gram(), random(9, 3, 5));
        let x = solve_ridge(&a, 0.1, &b);
        let ridged = Matrix::from_fn(9, 9, |i, j| a.row(i)[j] + if i == j { 0.1 } else { 0.0 });
        assert!(far(&ridged.times(&x), &b) < 1e-10);
    }
}
