//! Highly variable genes by the variance of standardised counts: scanpy's flavour `seurat_v3` (Stuart et al. 2019).
//!
//!   log10 variance = loess(log10 mean)      over the genes that vary, in each batch
//!   s              = 10^(fit / 2)           expected deviation of a gene of this mean
//!   variance       of (min(x, m + s sqrt(n)) - m) / s      m: mean of the unclipped counts, n: cells
//!
//! Genes rank by that variance within each batch; those among the first `count` in some batch are chosen by the median of
//! their ranks there. scanpy breaks ties by an unstable sort; here the earlier gene comes first.

use super::hvg::{GeneTable, Moments};
use super::loess;
use crate::correlation::median;

/// The means and deviations expected of a batch's genes, `[G]` each.
pub struct Expected {
    /// Cells of the batch.
    pub cells: f64,
    means: Vec<f64>,
    deviations: Vec<f64>,
    /// Larger counts are clipped to this.
    pub limits: Vec<f64>,
}

impl Expected {
    /// From the moments of a batch's counts.
    pub fn of(moments: &Moments) -> Expected {
        let genes = moments.sum.len();
        let (means, variances): (Vec<f64>, Vec<f64>) =
            (0..genes).map(|gene| moments.mean_and_variance(gene)).unzip();
        let varying: Vec<usize> = (0..genes).filter(|&gene| variances[gene] > 0.0).collect();
        let log = |of: &[f64]| -> Vec<f64> { varying.iter().map(|&gene| of[gene].log10()).collect() };
        let fit = loess::fitted(&log(&means), &log(&variances));
        let mut deviations = vec![1.0; genes];
        varying.iter().zip(fit).for_each(|(&gene, fit)| deviations[gene] = 10f64.powf(fit).sqrt());
        let cells = moments.cells as f64;
        let limits = means.iter().zip(&deviations).map(|(mean, s)| mean + s * cells.sqrt()).collect();
        Expected { cells, means, deviations, limits }
    }

    /// Variance of a gene's standardised counts, from the sums of the clipped ones.
    fn variance(&self, clipped: &Moments, gene: usize) -> f64 {
        let (n, mean, s) = (self.cells, self.means[gene], self.deviations[gene]);
        let squares = n * mean * mean + clipped.squares[gene] - 2.0 * mean * clipped.sum[gene];
        squares / ((n - 1.0) * s * s)
    }
}

/// Ranks the genes and chooses `count`. `whole`: moments of all cells; `batches`: for each batch of two cells or more, its
/// expectations and the sums of its clipped counts. `merged`: whether ranking by batch was requested.
pub fn table(whole: &Moments, batches: &[(Expected, Moments)], count: usize, merged: bool) -> GeneTable {
    let genes = whole.sum.len();
    let mut variances_norm = vec![0.0; genes];
    let mut ranks: Vec<Vec<f64>> = vec![Vec::new(); genes];
    for (expected, clipped) in batches {
        let variances: Vec<f64> = (0..genes).map(|gene| expected.variance(clipped, gene)).collect();
        let mut order: Vec<usize> = (0..genes).collect();
        order.sort_by(|&a, &b| variances[b].total_cmp(&variances[a]));
        order.iter().take(count).enumerate().for_each(|(rank, &gene)| ranks[gene].push(rank as f64));
        variances_norm.iter_mut().zip(&variances).for_each(|(sum, v)| *sum += v / batches.len() as f64);
    }
    let chosen_in: Vec<u32> = ranks.iter().map(|ranks| ranks.len() as u32).collect();
    let rank: Vec<f64> = ranks.iter_mut().map(|ranks| median(ranks).unwrap_or(f64::NAN)).collect();
    let mut order: Vec<usize> = (0..genes).collect();
    // NaN, which means no rank at all, sorts after all positive numbers.
    order.sort_by(|&a, &b| rank[a].total_cmp(&rank[b]).then(chosen_in[b].cmp(&chosen_in[a])));
    let mut highly_variable = vec![false; genes];
    order.iter().take(count).for_each(|&gene| highly_variable[gene] = true);
    let (means, variances) = (0..genes).map(|gene| whole.mean_and_variance(gene)).unzip();
    let columns = vec![
        ("means", means),
        ("variances", variances),
        ("variances_norm", variances_norm),
        ("highly_variable_rank", rank),
    ];
    GeneTable { columns, highly_variable, batches: if merged { chosen_in } else { Vec::new() } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_equal_ranks_the_gene_that_more_batches_choose_comes_first() {
        let batch = |squares: [f64; 2]| {
            let expected =
                Expected { cells: 2.0, means: vec![0.0; 2], deviations: vec![1.0; 2], limits: vec![1e9; 2] };
            (expected, Moments { squares: squares.to_vec(), ..Moments::new(2) })
        };
        let batches = [batch([2.0, 1.0]), batch([1.0, 2.0]), batch([1.0, 2.0])];
        let whole = Moments { cells: 6, ..Moments::new(2) };
        let table = table(&whole, &batches, 1, true);
        assert_eq!((table.highly_variable, table.batches), (vec![false, true], vec![1, 2]));
    }
}
