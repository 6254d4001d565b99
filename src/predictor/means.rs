//! What models make of the mean of a population, and how far they agree.

use rayon::prelude::*;

use crate::correlation::pearson;

/// Mean cells of a predicted population, on the log1p scale, before counts are drawn.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Means {
    /// What each model predicts, `[models][G]`.
    pub each: Vec<Vec<f64>>,
    /// The control cells that the population was made from, `[G]`.
    pub controls: Vec<f64>,
}

impl Means {
    /// Mean of the predicted cells, `[G]`.
    pub fn mean(&self) -> Vec<f64> {
        let models = self.each.len() as f64;
        (0..self.controls.len())
            .map(|gene| self.each.iter().map(|of| of[gene]).sum::<f64>() / models)
            .collect()
    }

    /// The mean effect: predicted minus control cells, `[G]`.
    pub fn effect(&self) -> Vec<f64> {
        self.beyond_controls(&self.mean())
    }

    /// The standard deviation of the models' effects, with n - 1, `[G]`; `None` of one model.
    pub fn spread(&self) -> Option<Vec<f64>> {
        let degrees = (self.each.len() > 1).then(|| (self.each.len() - 1) as f64)?;
        let off = |gene: usize, mean: f64| self.each.iter().map(|of| (of[gene] - mean).powi(2)).sum::<f64>();
        let spread = |(gene, mean)| (off(gene, mean) / degrees).sqrt();
        Some(self.mean().into_iter().enumerate().map(spread).collect())
    }

    /// Pearson's r of two models' effects, averaged over all pairs of models; `None` of one model, NaN if one predicts the same
    /// effect for every gene.
    pub fn agreement(&self) -> Option<f64> {
        let effects: Vec<Vec<f64>> = self.each.iter().map(|mean| self.beyond_controls(mean)).collect();
        let pairs = (0..effects.len()).flat_map(|i| (0..i).map(move |j| (i, j)));
        let correlations: Vec<f64> = pairs.map(|(i, j)| pearson(&effects[i], &effects[j])).collect();
        (!correlations.is_empty()).then(|| correlations.iter().sum::<f64>() / correlations.len() as f64)
    }

    fn beyond_controls(&self, mean: &[f64]) -> Vec<f64> {
        mean.iter().zip(&self.controls).map(|(after, before)| after - before).collect()
    }
}

/// A sum of cells.
pub(super) struct Sum {
    /// `[G]`.
    sum: Vec<f64>,
    cells: usize,
}

/// Genes that a thread adds at a time: a few lines of the cache of each row.
const BLOCK: usize = 64;

impl Sum {
    pub fn new(genes: usize) -> Sum {
        Sum { sum: vec![0.0; genes], cells: 0 }
    }

    /// Adds rows of `[G]`: the same numbers in the same order on any number of threads.
    pub fn add<'a>(&mut self, rows: impl ExactSizeIterator<Item = &'a [f32]> + Clone + Sync) {
        self.cells += rows.len();
        self.sum.par_chunks_mut(BLOCK).enumerate().for_each(|(block, sum)| {
            for row in rows.clone() {
                sum.iter_mut().zip(&row[block * BLOCK..]).for_each(|(sum, x)| *sum += f64::from(*x));
            }
        });
    }

    /// The mean of what was added, times `factor`; zeros of nothing.
    pub fn mean(&self, factor: f64) -> Vec<f64> {
        self.sum.iter().map(|sum| sum * factor / self.cells.max(1) as f64).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_and_agreement_are_those_worked_by_hand() {
        let each = vec![vec![1.0, 2.0, 2.0], vec![3.0, 4.0, 2.0]];
        let mut means = Means { each, controls: vec![1.0, 1.0, 0.0] };
        assert_eq!((means.mean(), means.effect()), (vec![2.0, 3.0, 2.0], vec![1.0, 2.0, 2.0]));
        assert_eq!(means.spread().expect("two models"), [2f64.sqrt(), 2f64.sqrt(), 0.0]);
        // Effects (0, 1, 2) and (2, 3, 2): deviations (-1, 0, 1) and (-1/3, 2/3, -1/3).
        let agreement = means.agreement().expect("two models");
        assert!(agreement.abs() < 1e-15, "{agreement}");
        // A third, with the deviations (1, -2, 1) / 3: 0 to the first, -1 to the second.
        means.each.push(vec![2.0, 1.0, 1.0]);
        let agreement = means.agreement().expect("three models");
        assert!((agreement + 1.0 / 3.0).abs() < 1e-15, "{agreement}");
        // (1, 3, 2), (2, 4, 1), (2, 2, 1): squares of the deviations 2, 14/3, 2/3.
        let spread = means.spread().expect("three models");
        let expected = [1.0f64, (7.0f64 / 3.0).sqrt(), (1.0f64 / 3.0).sqrt()];
        assert!(spread.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-15), "{spread:?}");
    }

    #[test]
    fn one_model_has_neither_spread_nor_agreement() {
        let means = Means { each: vec![vec![1.0, 2.0, 2.0]], controls: vec![0.0; 3] };
        assert_eq!(means.mean(), [1.0, 2.0, 2.0]);
        assert!(means.spread().is_none() && means.agreement().is_none());
    }

    #[test]
    fn sums_do_not_depend_on_how_the_cells_are_handed_over() {
        let g = 2 * BLOCK + 7;
        let rows: Vec<f32> = (0..5 * g).map(|i| (i as f32 * 0.37).sin()).collect();
        let (mut whole, mut parts) = (Sum::new(g), Sum::new(g));
        whole.add(rows.chunks(g));
        rows.chunks(2 * g).for_each(|rows| parts.add(rows.chunks(g)));
        assert!(whole.mean(1.0) == parts.mean(1.0));
        let expected = |gene: usize| (0..5).map(|i| f64::from(rows[i * g + gene])).sum::<f64>() / 5.0;
        assert!((0..g).all(|gene| whole.mean(1.0)[gene] == expected(gene)));
    }
}
