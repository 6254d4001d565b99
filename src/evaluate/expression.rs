//! Measures on mean profiles (../shared/spec/cell-eval.md, section 6). A delta is a profile minus its own side's control.

use rayon::prelude::*;

use super::correlation::pearson;
use super::pseudobulk::Pseudobulk;

/// Pearson's r of the real and the predicted change over genes, [G] each. NaN if either change is the same for all genes.
pub fn pearson_delta(real: &[f32], real_control: &[f32], pred: &[f32], pred_control: &[f32]) -> f64 {
    pearson(&minus(pred, pred_control), &minus(real, real_control))
}

/// Mean squared difference over genes.
pub fn mse(real: &[f32], pred: &[f32]) -> f64 {
    mean(real, pred, |d| d * d)
}

/// Mean absolute difference over genes.
pub fn mae(real: &[f32], pred: &[f32]) -> f64 {
    mean(real, pred, f64::abs)
}

fn mean(real: &[f32], pred: &[f32], of: impl Fn(f64) -> f64) -> f64 {
    assert_eq!(real.len(), pred.len(), "mean difference: {} genes against {}", real.len(), pred.len());
    real.iter().zip(pred).map(|(&r, &p)| of(f64::from(p) - f64::from(r))).sum::<f64>() / real.len() as f64
}

fn minus(a: &[f32], b: &[f32]) -> Vec<f32> {
    assert_eq!(a.len(), b.len(), "difference: {} genes against {}", a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

/// Everything the columns need, made once.
pub struct Profiles {
    real: Pseudobulk,
    pred: Pseudobulk,
    real_delta: Vec<Vec<f32>>,
    pred_delta: Vec<Vec<f32>>,
    /// The gene that has the perturbation's name, [P].
    own_gene: Vec<Option<usize>>,
}

/// Distance between two changes.
#[derive(Clone, Copy)]
enum Distance {
    L1,
    L2,
    Cosine,
}

impl Profiles {
    /// Both sides' profiles, perturbations in the same order.
    pub fn new(real: Pseudobulk, pred: Pseudobulk, perturbations: &[String], genes: &[String]) -> Profiles {
        let place: std::collections::HashMap<&String, usize> = genes.iter().zip(0..).collect();
        let own_gene = perturbations.iter().map(|name| place.get(name).copied()).collect();
        let (real_delta, pred_delta) = (real.deltas(), pred.deltas());
        Profiles { real, pred, real_delta, pred_delta, own_gene }
    }

    /// One value a perturbation. `name` is a measure of [`super::registry::METRICS`] that needs expression alone.
    pub fn column(&self, name: &str) -> Vec<Option<f64>> {
        let pairs = |value: fn(&[f32], &[f32]) -> f64, real: &[Vec<f32>], pred: &[Vec<f32>]| {
            real.par_iter().zip(pred).map(|(r, p)| Some(value(r, p))).collect()
        };
        let bulks = |value| pairs(value, &self.real.perturbed, &self.pred.perturbed);
        let deltas = |value| pairs(value, &self.real_delta, &self.pred_delta);
        match name {
            "pearson_delta" => deltas(|r, p| pearson(p, r)),
            "mse" => bulks(mse),
            "mae" => bulks(mae),
            "mse_delta" => deltas(mse),
            "mae_delta" => deltas(mae),
            "discrimination_score_l1" => self.discrimination(Distance::L1),
            "discrimination_score_l2" => self.discrimination(Distance::L2),
            "discrimination_score_cosine" => self.discrimination(Distance::Cosine),
            _ => panic!("expression: no measure {name:?}"),
        }
    }

    /// 1 - rank / P, the rank of the right real change by distance to the predicted one; of equally near ones the first by
    /// name ranks first. The gene that is the perturbation's target is left out.
    fn discrimination(&self, distance: Distance) -> Vec<Option<f64>> {
        let count = self.real_delta.len();
        let score = |p: usize| {
            let query = parts(&self.pred_delta[p], self.own_gene[p]);
            let to = |real: &Vec<f32>| distance.between(query, parts(real, self.own_gene[p]));
            let distances: Vec<f64> = self.real_delta.iter().map(to).collect();
            let nearer =
                |q: &usize| distances[*q] < distances[p] || (*q < p && distances[*q] == distances[p]);
            Some(1.0 - (0..count).filter(nearer).count() as f64 / count as f64)
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

/// The genes before and after the one that is left out.
fn parts(x: &[f32], without: Option<usize>) -> [&[f32]; 2] {
    match without {
        Some(gene) => [&x[..gene], &x[gene + 1..]],
        None => [x, &[]],
    }
}

/// Sum over pairs in eight partial sums, which the compiler keeps in one vector register.
fn reduce(a: [&[f32]; 2], b: [&[f32]; 2], of: impl Fn(f64, f64) -> f64 + Copy) -> f64 {
    a.iter().zip(b).map(|(a, b)| reduce_part(a, b, of)).sum()
}

fn reduce_part(a: &[f32], b: &[f32], of: impl Fn(f64, f64) -> f64) -> f64 {
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
