//! Measures on mean profiles, those of cell-eval 0.6.6's `metrics._anndata`. A delta is a profile minus its own side's control.

use std::sync::Arc;

use rayon::prelude::*;

use super::pseudobulk::Pseudobulk;
use super::rules::{Definitions, Discrimination};
use super::table::Column;
use crate::correlation::pearson;

/// Mean squared difference over genes.
///
/// # Panics
/// If one has more genes than the other.
pub fn mse(real: &[f32], pred: &[f32]) -> f64 {
    mean(real, pred, |d| d * d)
}

/// Mean absolute difference over genes.
///
/// # Panics
/// If one has more genes than the other.
pub fn mae(real: &[f32], pred: &[f32]) -> f64 {
    mean(real, pred, f64::abs)
}

/// Share of the variance over genes that the prediction explains. NaN if the measured profile is constant.
///
/// # Panics
/// As [`mse`].
pub fn r2(real: &[f32], pred: &[f32]) -> f64 {
    let mean = real.iter().map(|&r| f64::from(r)).sum::<f64>() / real.len() as f64;
    let total: f64 = real.iter().map(|&r| (f64::from(r) - mean).powi(2)).sum();
    if total > 0.0 { 1.0 - mse(real, pred) * real.len() as f64 / total } else { f64::NAN }
}

fn mean(real: &[f32], pred: &[f32], of: impl Fn(f64) -> f64) -> f64 {
    assert_eq!(real.len(), pred.len(), "mean difference: {} genes against {}", real.len(), pred.len());
    real.iter().zip(pred).map(|(&r, &p)| of(f64::from(p) - f64::from(r))).sum::<f64>() / real.len() as f64
}

/// The mean profiles of a side, and their changes. A clone shares them: the measured side's are those of all predictions.
#[derive(Clone)]
pub struct Means {
    bulk: Arc<Pseudobulk>,
    /// `[P, G]`.
    changes: Arc<[Vec<f32>]>,
}

brief!(Means, |means| bulk: means.bulk);

impl Means {
    /// With the changes of these profiles.
    pub fn of(bulk: Pseudobulk) -> Means {
        Means { changes: bulk.deltas().into(), bulk: Arc::new(bulk) }
    }
}

/// Everything the columns need, computed once.
pub struct Profiles {
    real: Means,
    pred: Means,
    /// The gene that has the perturbation's name, `[P]`.
    own_gene: Vec<Option<usize>>,
    definitions: Definitions,
}

brief!(Profiles, |profiles| perturbations: profiles.own_gene.len());

/// Distance between two changes.
#[derive(Clone, Copy)]
enum Distance {
    L1,
    L2,
    Cosine,
}

impl Profiles {
    /// Both sides' profiles, perturbations in the same order.
    pub fn new(
        [real, pred]: [Means; 2],
        perturbations: &[String],
        genes: &[String],
        definitions: Definitions,
    ) -> Profiles {
        let place: std::collections::HashMap<&String, usize> = genes.iter().zip(0..).collect();
        let own_gene = perturbations.iter().map(|name| place.get(name).copied()).collect();
        Profiles { real, pred, own_gene, definitions }
    }

    /// The changes of real and pred, `[P, G]` each.
    pub fn into_changes(self) -> [Arc<[Vec<f32>]>; 2] {
        [self.real.changes, self.pred.changes]
    }

    /// `name`: a measure of [`super::registry::METRICS`] that needs only mean profiles.
    ///
    /// # Panics
    /// If no such measure has this name.
    pub fn column(&self, name: &str) -> Column {
        type Profile = [Vec<f32>];
        let pairs = |value: &(dyn Fn(&[f32], &[f32]) -> f64 + Sync), real: &Profile, pred: &Profile| {
            real.par_iter().zip(pred).map(|(r, p)| Some(value(r, p))).collect::<Vec<_>>()
        };
        let bulks = |value| pairs(value, &self.real.bulk.perturbed, &self.pred.bulk.perturbed);
        let deltas = |value| pairs(value, &self.real.changes, &self.pred.changes);
        let appendix = self.definitions.appendix;
        let values = match name {
            "pearson_delta" => deltas(&|r, p| pearson(p, r)),
            "mse" if appendix => deltas(&|r, p| mse(r, p) * r.len() as f64),
            "mae" if appendix => deltas(&|r, p| mae(r, p) * r.len() as f64),
            "mse" => bulks(&mse),
            "mae" => bulks(&mae),
            "mse_delta" => deltas(&mse),
            "mae_delta" => deltas(&mae),
            "discrimination_score_l1" => self.discrimination(Distance::L1),
            "discrimination_score_l2" => self.discrimination(Distance::L2),
            "discrimination_score_cosine" => self.discrimination(Distance::Cosine),
            "r2" => bulks(&r2),
            _ => panic!("expression: no measure {name:?}"),
        };
        Column::new(name, values, self.definitions.quirks)
    }

    /// How near the predicted change is to the right real one, among all real ones ([`Discrimination`]); 1 is best.
    fn discrimination(&self, distance: Distance) -> Vec<Option<f64>> {
        let rule = self.definitions.discrimination;
        let count = self.real.changes.len();
        let score = |p: usize| {
            let own = self.own_gene[p].filter(|_| rule != Discrimination::Strict);
            let query = parts(&self.pred.changes[p], own);
            if query.iter().all(|part| part.is_empty()) {
                return None;
            }
            let to = |real: &Vec<f32>| distance.between(query, parts(real, own));
            let distances: Vec<f64> = self.real.changes.iter().map(to).collect();
            let nearer = distances.iter().filter(|&&d| d < distances[p]).count();
            let tied = |range: std::ops::Range<usize>| {
                distances[range].iter().filter(|&&d| d == distances[p]).count()
            };
            let (rank, of) = match rule {
                Discrimination::ByName => ((nearer + tied(0..p)) as f64, count),
                Discrimination::Shared => (nearer as f64 + (tied(0..count) - 1) as f64 / 2.0, count - 1),
                Discrimination::Strict => (nearer as f64, count),
            };
            Some(1.0 - rank / of as f64)
        };
        (0..count).into_par_iter().map(score).collect()
    }
}

impl Distance {
    fn between(self, a: [&[f32]; 2], b: [&[f32]; 2]) -> f64 {
        match self {
            Distance::L1 => reduce(a, b, |a, b| (a - b).abs()),
            Distance::L2 => reduce(a, b, |a, b| (a - b) * (a - b)).sqrt(),
            Distance::Cosine => {
                let dot = |a, b| reduce(a, b, |a, b| a * b);
                let norms = dot(a, a).sqrt() * dot(b, b).sqrt();
                let cosine = if norms > 0.0 { dot(a, b) / norms } else { 0.0 };
                (1.0 - cosine).clamp(0.0, 2.0)
            }
        }
    }
}

/// The genes before and after the one left out.
fn parts(x: &[f32], without: Option<usize>) -> [&[f32]; 2] {
    match without {
        Some(gene) => [&x[..gene], &x[gene + 1..]],
        None => [x, &[]],
    }
}

/// [`sum_of_pairs`] of both parts.
fn reduce(a: [&[f32]; 2], b: [&[f32]; 2], of: impl Fn(f64, f64) -> f64 + Copy) -> f64 {
    a.iter().zip(b).map(|(a, b)| sum_of_pairs(a, b, of)).sum()
}

/// Sum over the pairs of two rows of equal length, such as two cells' genes, in eight partial sums: the compiler keeps them in one vector register,
/// and a single one would wait for each addition.
pub(super) fn sum_of_pairs(a: &[f32], b: &[f32], of: impl Fn(f64, f64) -> f64) -> f64 {
    let (a, a_rest) = a.as_chunks::<8>();
    let (b, b_rest) = b.as_chunks::<8>();
    let mut part = [0.0f64; 8];
    for (a, b) in a.iter().zip(b) {
        for i in 0..8 {
            part[i] += of(f64::from(a[i]), f64::from(b[i]));
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(&a, &b)| of(f64::from(a), f64::from(b))).sum();
    part.iter().sum::<f64>() + rest
}
