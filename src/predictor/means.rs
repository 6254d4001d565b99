//! What models make of the mean of a population, and how far they agree.

use rayon::prelude::*;

use crate::correlation::pearson;

/// The mean cell of a predicted population as each model makes it, on the log1p scale, before counts are drawn.
#[derive(Clone, Debug)]
pub struct Means(Vec<Sum>);

/// The sum of a model's cells.
#[derive(Clone, Debug)]
pub(super) struct Sum {
    /// `[G]`.
    sum: Vec<f64>,
    cells: usize,
}

/// Genes that a thread adds at a time: a few lines of the cache of each row.
const BLOCK: usize = 64;

impl Sum {
    /// Adds cells, `[cells, G]`: the same numbers in the same order on any number of threads.
    pub fn add(&mut self, rows: &[f32]) {
        let g = self.sum.len();
        self.cells += rows.len() / g;
        self.sum.par_chunks_mut(BLOCK).enumerate().for_each(|(block, sum)| {
            for row in rows.chunks(g) {
                sum.iter_mut().zip(&row[block * BLOCK..]).for_each(|(sum, x)| *sum += f64::from(*x));
            }
        });
    }
}

impl Means {
    pub(super) fn new(models: usize, genes: usize) -> Means {
        Means(vec![Sum { sum: vec![0.0; genes], cells: 0 }; models])
    }

    pub(super) fn sums(&mut self) -> impl Iterator<Item = &mut Sum> {
        self.0.iter_mut()
    }

    /// The mean by each model, `[models][G]`; zeros if no cell was asked for.
    pub fn each(&self) -> Vec<Vec<f64>> {
        let mean = |of: &Sum| of.sum.iter().map(|sum| sum / of.cells.max(1) as f64).collect();
        self.0.iter().map(mean).collect()
    }

    /// The mean of the predicted cells, `[G]`.
    pub fn mean(&self) -> Vec<f64> {
        let each = self.each();
        (0..each[0].len())
            .map(|gene| each.iter().map(|of| of[gene]).sum::<f64>() / each.len() as f64)
            .collect()
    }

    /// The standard deviation of the models' means, with n - 1, `[G]`; `None` of one model.
    pub fn spread(&self) -> Option<Vec<f64>> {
        let each = self.each();
        let degrees = (each.len() > 1).then(|| (each.len() - 1) as f64)?;
        let off = |gene: usize, mean: f64| each.iter().map(|of| (of[gene] - mean).powi(2)).sum::<f64>();
        Some(
            self.mean()
                .into_iter()
                .enumerate()
                .map(|(gene, mean)| (off(gene, mean) / degrees).sqrt())
                .collect(),
        )
    }

    /// Pearson's r of the effects (mean minus `resting`, the mean control cell, `[G]`) by two models, averaged over all pairs of models;
    /// `None` of one model, NaN if one predicts the same effect for every gene.
    pub fn agreement(&self, resting: &[f64]) -> Option<f64> {
        let each = self.each().into_iter();
        let effects: Vec<Vec<f64>> = each
            .map(|mean| mean.iter().zip(resting).map(|(after, before)| after - before).collect())
            .collect();
        let pairs = (0..effects.len()).flat_map(|i| (0..i).map(move |j| (i, j)));
        let correlations: Vec<f64> = pairs.map(|(i, j)| pearson(&effects[i], &effects[j])).collect();
        (!correlations.is_empty()).then(|| correlations.iter().sum::<f64>() / correlations.len() as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Means of models whose two cells are given.
    fn of(models: &[[[f32; 3]; 2]]) -> Means {
        let mut means = Means::new(models.len(), 3);
        means.sums().zip(models).for_each(|(sum, cells)| cells.iter().for_each(|cell| sum.add(cell)));
        means
    }

    #[test]
    fn spread_and_agreement_are_those_worked_by_hand() {
        let means = of(&[[[0.0, 2.0, 4.0], [2.0, 2.0, 0.0]], [[3.0, 4.0, 1.0], [3.0, 4.0, 3.0]]]);
        assert_eq!(means.each(), [[1.0, 2.0, 2.0], [3.0, 4.0, 2.0]]);
        assert_eq!(means.mean(), [2.0, 3.0, 2.0]);
        assert_eq!(means.spread().expect("two models"), [2f64.sqrt(), 2f64.sqrt(), 0.0]);
        // Effects (0, 1, 2) and (2, 3, 2): deviations (-1, 0, 1) and (-1/3, 2/3, -1/3).
        let agreement = means.agreement(&[1.0, 1.0, 0.0]).expect("two models");
        assert!(agreement.abs() < 1e-15, "{agreement}");
        // (1, 1, 2) and (3, 3, 2).
        let agreement = means.agreement(&[0.0, 1.0, 0.0]).expect("two models");
        assert!((agreement + 1.0).abs() < 1e-15, "{agreement}");
    }

    #[test]
    fn one_model_has_neither_spread_nor_agreement() {
        let means = of(&[[[0.0, 2.0, 4.0], [2.0, 2.0, 0.0]]]);
        assert_eq!(means.mean(), [1.0, 2.0, 2.0]);
        assert!(means.spread().is_none() && means.agreement(&[0.0; 3]).is_none());
    }

    #[test]
    fn sums_do_not_depend_on_how_the_cells_are_handed_over() {
        let g = 2 * BLOCK + 7;
        let rows: Vec<f32> = (0..5 * g).map(|i| (i as f32 * 0.37).sin()).collect();
        let (mut whole, mut parts) = (Means::new(1, g), Means::new(1, g));
        whole.sums().for_each(|sum| sum.add(&rows));
        parts.sums().for_each(|sum| rows.chunks(2 * g).for_each(|rows| sum.add(rows)));
        assert!(whole.each() == parts.each());
        let expected = |gene: usize| (0..5).map(|i| f64::from(rows[i * g + gene])).sum::<f64>() / 5.0;
        assert!((0..g).all(|gene| whole.mean()[gene] == expected(gene)));
    }
}
