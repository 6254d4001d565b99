//! The linear baseline of Ahlmann-Eltze, Huber & Anders (Nature Methods 2025), for pairs of cell type and perturbation.
//!
//! Their model predicts the mean profile Y of each condition from known factors of genes and conditions through one small matrix,
//!
//!   Y ~ A W F^T + b,     W = (A^T A + 0.1 I)^-1 A^T (Y - b) F (F^T F + 0.1 I)^-1.
//!
//! Here, with M training pairs (c, p) and G genes:
//! - Y `[G, M]` holds effects (means minus the controls of the same context), not profiles; b `[G]` is their mean over pairs.
//! - A `[G, K]`, the gene factors: the principal components of Y - b over pairs, scaled as scores (unit vector times singular
//!   value), K = 10 or as many as differ from zero.
//! - F `[M, K + L]`, the factors of a pair: those of its perturbation, then those of its cell type.
//!   Perturbation: coordinates on the K components of the perturbation's mean of Y - b over its training cell types.
//!   Cell type: coordinates of its mean *control* profile on the principal components of the control profiles of the training cell
//!   types, L at most 10 and below their number. Known before any perturbed cell of the type is seen.
//!   Each column is scaled to a mean square of 1 over the training pairs, so that the ridge means the same for both kinds.
//!
//! An unseen pair is predicted as A W f + b with the factors of its perturbation and its cell type. The model is additive in
//! the two: it captures what a perturbation does across cell types and what a cell type does across perturbations, and has no
//! term for the pair. An unseen perturbation has factors 0 (those of the average one), unless perturbations are known by features:
//! these are then its factors, as the publication has it for embeddings.

use std::collections::BTreeMap;

use super::algebra::{Matrix, solve_ridge, top_eigen};
use crate::data::bulk::{Pair, Resting};

/// Components of effects and of cell types.
const COMPONENTS: usize = 10;
/// As in the publication.
const RIDGE: f64 = 0.1;

/// A fitted model.
pub struct Linear {
    /// A W, `[G, K + L]`.
    genes: Matrix,
    /// b, `[G]`.
    offset: Vec<f64>,
    perturbations: BTreeMap<u32, Vec<f64>>,
    cell_types: BTreeMap<u32, Vec<f64>>,
    /// K, or the number of features.
    components: usize,
}

brief!(Linear, |linear| components: linear.components);

impl Linear {
    /// Fits the training pairs, at least one, sorted by cell type as returned by [`bulk::pairs`](crate::data::bulk::pairs).
    /// `features`: of each perturbation, if they are its factors.
    ///
    /// # Panics
    /// If there are none.
    pub fn fit(pairs: &[Pair], resting: &Resting, features: Option<&BTreeMap<u32, Vec<f64>>>) -> Linear {
        assert!(!pairs.is_empty(), "linear: no training pairs");
        let effects: Vec<&[f64]> = pairs.iter().map(|pair| pair.effect.as_slice()).collect();
        let (offset, centred) = centre(&effects);
        let (sizes, axes) = components(&centred, COMPONENTS);
        let perturbations = match features {
            Some(features) => scaled(features.clone(), pairs.iter().map(|pair| pair.perturbation)),
            None => perturbation_factors(pairs, &centred, &axes),
        };
        let cell_types = cell_type_factors(pairs, resting);
        let factors: Vec<Vec<f64>> = pairs
            .iter()
            .map(|pair| [&perturbations[&pair.perturbation][..], &cell_types[&pair.cell_type][..]].concat())
            .collect();
        let width = factors[0].len();
        let f = Matrix::from_fn(pairs.len(), width, |i, j| factors[i][j]);
        let a = Matrix::from_fn(axes.cols, axes.rows, |g, k| axes.row(k)[g] * sizes[k]);
        let w = weights(&a, &centred, &f);
        let components = perturbations[&pairs[0].perturbation].len();
        Linear { genes: a.times(&w), offset, perturbations, cell_types, components }
    }

    /// True if the perturbation was in training, or is known by its features.
    pub fn knows(&self, perturbation: u32) -> bool {
        self.perturbations.contains_key(&perturbation)
    }

    /// The effect of a pair, `[G]`.
    pub fn effect(&self, cell_type: u32, perturbation: u32) -> Vec<f64> {
        let mut factors = vec![0.0; self.genes.cols];
        if let Some(known) = self.perturbations.get(&perturbation) {
            factors[..self.components].copy_from_slice(known);
        }
        if let Some(known) = self.cell_types.get(&cell_type) {
            factors[self.components..].copy_from_slice(known);
        }
        let weigh = |(g, b): (usize, &f64)| {
            b + self.genes.row(g).iter().zip(&factors).map(|(x, f)| x * f).sum::<f64>()
        };
        self.offset.iter().enumerate().map(weigh).collect()
    }
}

/// W.
fn weights(a: &Matrix, centred: &Matrix, f: &Matrix) -> Matrix {
    let scores = a.transposed().times(&centred.transposed()); // A^T (Y - b)
    let of_genes = |x: &Matrix| solve_ridge(&a.transposed().gram(), RIDGE, x).transposed();
    match f.cols <= f.rows {
        true => solve_ridge(&f.transposed().gram(), RIDGE, &of_genes(&scores.times(f))).transposed(),
        // (F^T F + r I)^-1 F^T = F^T (F F^T + r I)^-1: with more features than pairs, the smaller one.
        false => f.transposed().times(&solve_ridge(&f.gram(), RIDGE, &of_genes(&scores))).transposed(),
    }
}

/// Mean of the rows, and the rows minus it.
fn centre(rows: &[&[f64]]) -> (Vec<f64>, Matrix) {
    let cols = rows[0].len();
    let mut mean = vec![0.0; cols];
    for row in rows {
        mean.iter_mut().zip(*row).for_each(|(m, x)| *m += x / rows.len() as f64);
    }
    let centred = Matrix::from_fn(rows.len(), cols, |i, j| rows[i][j] - mean[j]);
    (mean, centred)
}

/// Singular values and right singular vectors (rows) of `x`, the largest `most` that are not zero. Uses the smaller Gram matrix.
fn components(x: &Matrix, most: usize) -> (Vec<f64>, Matrix) {
    let wide = x.rows <= x.cols;
    let (squares, vectors) = top_eigen(&if wide { x.gram() } else { x.transposed().gram() }, most);
    let floor = 1e-12 * squares.first().copied().unwrap_or(0.0);
    let kept = squares.iter().take_while(|&&square| square > floor).count();
    let sizes: Vec<f64> = squares[..kept].iter().map(|square| square.sqrt()).collect();
    let vectors =
        Matrix { rows: kept, cols: vectors.cols, data: vectors.data[..kept * vectors.cols].to_vec() };
    if !wide {
        return (sizes, vectors);
    }
    let mut axes = vectors.times(x);
    for (k, size) in sizes.iter().enumerate() {
        axes.data[k * x.cols..(k + 1) * x.cols].iter_mut().for_each(|v| *v /= size);
    }
    (sizes, axes)
}

fn perturbation_factors(pairs: &[Pair], centred: &Matrix, axes: &Matrix) -> BTreeMap<u32, Vec<f64>> {
    let coordinates = centred.times(&axes.transposed());
    let mut factors = BTreeMap::<u32, Vec<f64>>::new();
    let mut seen = BTreeMap::<u32, f64>::new();
    for (i, pair) in pairs.iter().enumerate() {
        let sum = factors.entry(pair.perturbation).or_insert_with(|| vec![0.0; axes.rows]);
        sum.iter_mut().zip(coordinates.row(i)).for_each(|(s, x)| *s += x);
        *seen.entry(pair.perturbation).or_default() += 1.0;
    }
    for (perturbation, sum) in &mut factors {
        sum.iter_mut().for_each(|s| *s /= seen[perturbation]);
    }
    scaled(factors, pairs.iter().map(|pair| pair.perturbation))
}

/// Factors of every cell type that has controls; axes and scale come from the training types.
fn cell_type_factors(pairs: &[Pair], resting: &Resting) -> BTreeMap<u32, Vec<f64>> {
    let mut trained: Vec<u32> = pairs.iter().map(|pair| pair.cell_type).collect();
    // Pairs are sorted by cell type.
    trained.dedup();
    let profiles: Vec<&[f64]> = trained.iter().map(|c| resting.by_type[c].as_slice()).collect();
    let (mean, centred) = centre(&profiles);
    let (_, axes) = components(&centred, COMPONENTS.min(trained.len() - 1));
    let place = |profile: &Vec<f64>| {
        let along = |k| axes.row(k).iter().zip(profile).zip(&mean).map(|((a, x), m)| a * (x - m)).sum();
        (0..axes.rows).map(along).collect()
    };
    let factors = resting.by_type.iter().map(|(&c, profile)| (c, place(profile))).collect();
    scaled(factors, pairs.iter().map(|pair| pair.cell_type))
}

/// Divides each column by its root mean square over the training pairs.
fn scaled(
    mut factors: BTreeMap<u32, Vec<f64>>,
    training: impl Iterator<Item = u32>,
) -> BTreeMap<u32, Vec<f64>> {
    let width = factors.values().next().map_or(0, Vec::len);
    let (mut squares, mut count) = (vec![0.0; width], 0.0);
    for id in training {
        squares.iter_mut().zip(&factors[&id]).for_each(|(s, x)| *s += x * x);
        count += 1.0;
    }
    for row in factors.values_mut() {
        for (x, square) in row.iter_mut().zip(&squares) {
            *x /= (square / count).sqrt().max(1e-12);
        }
    }
    factors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_factors_than_pairs_are_the_same_model() {
        let centred = Matrix::from_fn(3, 4, |i, j| ((i * 7 + j * 5) % 6) as f64 - 2.5);
        let a = Matrix::from_fn(4, 2, |i, j| ((i * 3 + j * 4) % 5) as f64 - 2.0);
        let f = Matrix::from_fn(3, 2, |i, j| (i + 2 * j) as f64 - 1.5);
        // Zeros beside them change nothing but the way.
        let wide = Matrix::from_fn(3, 5, |i, j| if j < 2 { f.row(i)[j] } else { 0.0 });
        let (few, many) = (weights(&a, &centred, &f), weights(&a, &centred, &wide));
        for (few, many) in (0..2).flat_map(|k| few.row(k).iter().zip(many.row(k))) {
            assert!((few - many).abs() < 1e-12, "{few} and {many}");
        }
        assert!((0..2).all(|k| many.row(k)[2..].iter().all(|w| *w == 0.0)) && few.row(0)[0].abs() > 1e-3);
    }

    #[test]
    fn a_perturbation_of_several_cell_types_has_the_mean_of_their_factors() {
        let pair = |cell_type, perturbation| Pair { cell_type, perturbation, effect: Vec::new() };
        let pairs = [pair(0, 1), pair(0, 2), pair(1, 1)];
        let centred = Matrix { rows: 3, cols: 1, data: vec![1.0, 2.0, 3.0] };
        let axes = Matrix { rows: 1, cols: 1, data: vec![1.0] };
        let factors = perturbation_factors(&pairs, &centred, &axes);
        assert_eq!(factors[&1], factors[&2]);
    }
}
