//! How far a mean over perturbations would move with other perturbations (Efron 1979).
//!
//! Perturbations are drawn with replacement, as many as there are; the 2.5 and 97.5 percentiles over the draws bound the mean.
//! The same draws serve every column and every prediction, so the difference of two predictions has an interval of its own.

use rayon::prelude::*;

use super::table::Column;
use crate::rng::Rng;

/// Samples of perturbations.
pub struct Draws {
    chosen: Vec<Vec<u32>>,
    quirks: bool,
}

brief!(Draws, |draws| draws: draws.chosen.len());

impl Draws {
    /// `draws` times `count` perturbations out of `count`. The draws are always the same.
    pub fn new(draws: usize, count: usize, quirks: bool) -> Draws {
        let draw = |d: usize| {
            let rng = Rng::new(0).at(d as u64);
            (0..count as u64).map(|i| rng.below(i, count as u64) as u32).collect()
        };
        Draws { chosen: (0..draws).into_par_iter().map(draw).collect(), quirks }
    }

    /// 95 % of a column's means lie within. NaN if no draw has a mean, or only one perturbation has a value.
    ///
    /// # Panics
    /// If the column has fewer values than these draws have perturbations.
    pub fn interval(&self, column: &Column) -> [f64; 2] {
        self.percentiles(&[column], |chosen| column.over(chosen, self.quirks))
    }

    /// The same for the difference `a - b` of two predictions' columns.
    ///
    /// # Panics
    /// As [`Draws::interval`].
    pub fn difference(&self, a: &Column, b: &Column) -> [f64; 2] {
        self.percentiles(&[a, b], |chosen| a.over(chosen, self.quirks) - b.over(chosen, self.quirks))
    }

    fn percentiles(&self, of: &[&Column], value: impl Fn(&[u32]) -> f64 + Sync) -> [f64; 2] {
        let values = |column: &&Column| column.values.iter().flatten().filter(|x| x.is_finite()).count();
        if of.iter().map(values).any(|values| values < 2) {
            return [f64::NAN; 2];
        }
        let mut values: Vec<f64> =
            self.chosen.par_iter().map(|chosen| value(chosen)).filter(|v| !v.is_nan()).collect();
        values.sort_by(f64::total_cmp);
        [0.025, 0.975].map(|q| {
            let place = (q * values.len().saturating_sub(1) as f64).round() as usize;
            values.get(place).copied().unwrap_or(f64::NAN)
        })
    }
}
