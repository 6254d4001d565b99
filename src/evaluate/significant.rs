//! A differential expression table as the measures see it: perturbations sorted, significant genes ranked.
//! cell-eval 0.6.6 (`DEResults`) first rounds it to f32.

use std::collections::HashMap;

use rayon::prelude::*;

use super::de::Table;
use super::rules::Definitions;

/// Significant: an fdr strictly below this.
pub const THRESHOLD: f64 = 0.05;

/// The genes of one perturbation, `[G]` each.
pub struct Genes {
    /// Ratio of means, not a logarithm.
    pub fold_change: Vec<f64>,
    /// log2 of the ratio.
    pub log_fold: Vec<f64>,
    /// Adjusted p.
    pub fdr: Vec<f64>,
    /// Significant genes, the largest |log2 fold change| first. Ties keep the order of the genes; polars leaves their order open.
    pub ranked: Vec<u32>,
    significant: Vec<bool>,
}

brief!(Genes, |genes| genes: genes.fdr.len());

impl Genes {
    /// Whether gene `g` is significant.
    ///
    /// # Panics
    /// If there is no such gene.
    pub fn significant(&self, g: usize) -> bool {
        self.significant[g]
    }

    /// The genes of the table's target number `target`.
    ///
    /// # Panics
    /// If there is no such target.
    pub fn of(table: &Table, target: usize, definitions: &Definitions) -> Genes {
        let width = table.genes.len();
        let rows = target * width..(target + 1) * width;
        let round = |x: f64| if definitions.quirks { f64::from(x as f32) } else { x };
        let fold = &table.fold_change[rows.clone()];
        let log_fold: Vec<f64> = fold.iter().map(|ratio| round(ratio.log2())).collect();
        let fdr: Vec<f64> = table.fdr[rows].iter().map(|&q| round(q)).collect();
        let significant: Vec<bool> = fdr.iter().map(|&q| q < round(THRESHOLD)).collect();
        let mut ranked: Vec<u32> = (0..width as u32).filter(|&g| significant[g as usize]).collect();
        let size = |g: u32| log_fold[g as usize].abs();
        ranked.sort_by(|&a, &b| size(b).total_cmp(&size(a)));
        Genes { fold_change: fold.iter().map(|&f| round(f)).collect(), log_fold, fdr, ranked, significant }
    }
}

/// The number of each given perturbation among the table's targets, for [`Genes::of`].
///
/// # Panics
/// If the table does not hold one of them.
pub fn places(table: &Table, perturbations: &[String]) -> Vec<usize> {
    let place: HashMap<&String, usize> = table.targets.iter().zip(0..).collect();
    perturbations.iter().map(|name| place[name]).collect()
}

/// The table's perturbations in the given order.
///
/// # Panics
/// As [`places`].
pub fn view(table: &Table, perturbations: &[String], definitions: &Definitions) -> Vec<Genes> {
    places(table, perturbations).par_iter().map(|&target| Genes::of(table, target, definitions)).collect()
}
