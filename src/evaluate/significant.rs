//! A differential expression table as the measures see it: in f32, perturbations sorted, significant genes ranked
//! (../shared/spec/cell-eval.md, sections 4.1 and 7.1).

use rayon::prelude::*;

use super::de::Table;

/// Significant: an f32 fdr strictly below the f32 nearest to 0.05.
pub const THRESHOLD: f32 = 0.05;

/// The genes of one perturbation, [G] each.
pub struct Genes {
    /// Ratio of means, not a logarithm.
    pub fold_change: Vec<f32>,
    /// log2 of the ratio.
    pub log_fold: Vec<f32>,
    /// Adjusted p.
    pub fdr: Vec<f32>,
    /// Significant genes, the largest |log2 fold change| first. Ties keep the order of the genes; polars leaves it open.
    pub ranked: Vec<u32>,
}

impl Genes {
    /// Whether gene `g` is significant.
    pub fn significant(&self, g: usize) -> bool {
        self.fdr[g] < THRESHOLD
    }

    fn of(table: &Table, target: usize) -> Genes {
        let width = table.genes.len();
        let rows = target * width..(target + 1) * width;
        let fold = &table.fold_change[rows.clone()];
        let log = |&ratio: &f64| {
            let log = ratio.log2();
            if log.is_nan() { 0.0 } else { log as f32 }
        };
        let log_fold: Vec<f32> = fold.iter().map(log).collect();
        let fdr: Vec<f32> = table.fdr[rows].iter().map(|&q| q as f32).collect();
        let mut ranked: Vec<u32> = (0..width as u32).filter(|&g| fdr[g as usize] < THRESHOLD).collect();
        let size = |g: u32| log_fold[g as usize].abs();
        ranked.sort_by(|&a, &b| size(b).total_cmp(&size(a)));
        Genes { fold_change: fold.iter().map(|&f| f as f32).collect(), log_fold, fdr, ranked }
    }
}

/// The table's perturbations in the given order, each of which the table holds.
pub fn view(table: &Table, perturbations: &[String]) -> Vec<Genes> {
    let place: std::collections::HashMap<&String, usize> = table.targets.iter().zip(0..).collect();
    perturbations.par_iter().map(|name| Genes::of(table, place[name])).collect()
}
