//! How far a mean over perturbations would move with other perturbations (Efron 1979).
//!
//! Perturbations are drawn with replacement, as many as there are; the 2.5 and 97.5 percentiles over the draws bound the mean.
//! The same draws serve every column and every prediction, so the difference of two predictions has an interval of its own.

use rayon::prelude::*;

use super::table::Column;
use crate::rng::Rng;

/// Samples of perturbations. Each is drawn when it is used: all of them may be more than memory holds.
pub struct Draws {
    draws: usize,
    /// Perturbations.
    count: usize,
}

brief!(Draws, |draws| draws: draws.draws);

/// A column of a prediction, or its difference from another prediction's.
pub type Contrast<'a> = (&'a Column, Option<&'a Column>);

impl Draws {
    /// `draws` times `count` perturbations out of `count`. The draws are always the same.
    pub fn new(draws: usize, count: usize) -> Draws {
        Draws { draws, count }
    }

    /// The perturbations of a draw.
    fn chosen(&self, draw: usize) -> Vec<u32> {
        let (rng, count) = (Rng::new(0).at(draw as u64), self.count as u64);
        (0..count).map(|i| rng.below(i, count) as u32).collect()
    }

    /// 95 % of each one's means, or of the differences of its means, lie within. NaN if no draw has a mean, or only one perturbation
    /// has a value.
    ///
    /// # Panics
    /// If a column has fewer values than these draws have perturbations.
    pub fn intervals(&self, of: &[Contrast]) -> Vec<[f64; 2]> {
        let means = |draw| -> Vec<f64> {
            let chosen = self.chosen(draw);
            let mean = |column: &Column| column.over(&chosen);
            of.iter().map(|(a, b)| b.map_or_else(|| mean(a), |b| mean(a) - mean(b))).collect()
        };
        let means: Vec<Vec<f64>> = (0..self.draws).into_par_iter().map(means).collect();
        let interval = |(i, (a, b)): (usize, &Contrast)| {
            if is_fixed(a) || b.is_some_and(is_fixed) {
                return [f64::NAN; 2];
            }
            percentiles(means.iter().map(|means| means[i]).filter(|mean| !mean.is_nan()).collect())
        };
        of.par_iter().enumerate().map(interval).collect()
    }
}

/// Whether no draw could move a column's mean.
fn is_fixed(column: &Column) -> bool {
    column.values.iter().flatten().filter(|x| x.is_finite()).count() < 2
}

fn percentiles(mut values: Vec<f64>) -> [f64; 2] {
    values.sort_by(f64::total_cmp);
    [0.025, 0.975].map(|q| {
        let place = (q * values.len().saturating_sub(1) as f64).round() as usize;
        values.get(place).copied().unwrap_or(f64::NAN)
    })
}
