//! Measures of agreement between two differential expression tables, those of cell-eval 0.6.6's `metrics._de`.
//!
//! R, Q: significant genes of real and pred, largest |log2 fold change| first. `None` is null (nothing to measure, left out of
//! means), NaN is undefined; only cell-eval's rules ([`Definitions::quirks`]) keep NaN.

use std::sync::OnceLock;

use rayon::prelude::*;

use super::rules::Definitions;
use super::significant::Genes;
use super::table::{Column, Joined};
use crate::correlation::spearman;

/// The gene lists of both sides.
pub struct Lists {
    real: Vec<Genes>,
    pred: Vec<Genes>,
    /// Kept, as two columns need them.
    areas: OnceLock<Vec<Areas>>,
    definitions: Definitions,
}

brief!(Lists, |lists| pairs: lists.real.len());

impl Lists {
    /// From real and pred, `[P]` each, perturbations in the same order.
    pub fn new([real, pred]: [Vec<Genes>; 2], definitions: Definitions) -> Lists {
        Lists { real, pred, areas: OnceLock::new(), definitions }
    }

    /// `name`: a column of a measure of [`super::registry::METRICS`] that needs the tables.
    ///
    /// # Panics
    /// If no such column has this name.
    pub fn column(&self, name: &str) -> Column {
        let Lists { real, pred, definitions, .. } = self;
        let quirks = definitions.quirks;
        let each = |value: &(dyn Fn(&Genes, &Genes) -> Option<f64> + Sync)| -> Column {
            let values = real.par_iter().zip(pred).map(|(real, pred)| value(real, pred)).collect();
            Column::new(name, values, quirks)
        };
        if let Some((kind, k)) = name.split_once("_at_") {
            let none = |side: &[Genes]| side.iter().all(|genes| genes.ranked.is_empty());
            let silent = quirks && (none(real) || none(pred));
            let (overlap, limit) = (kind == "overlap", k.parse().ok());
            return each(&move |real, pred| match top(overlap, limit, real, pred) {
                _ if silent => Some(0.0),
                None if quirks => Some(0.0),
                share => share,
            });
        }
        match name {
            "de_spearman_sig" => {
                let join = if quirks { spearman_or_one } else { spearman };
                Column::whole(name, Joined { pairs: count_pairs(real, pred), join }, quirks)
            }
            "de_direction_match" => each(&|real, pred| direction_match(real, pred, definitions.appendix)),
            "de_spearman_lfc_sig" => each(&fold_correlation),
            "de_sig_genes_recall" => each(&recall),
            "de_nsig_counts_real" => each(&|real, _| Some(real.ranked.len() as f64)),
            "de_nsig_counts_pred" => each(&|_, pred| Some(pred.ranked.len() as f64)),
            "pr_auc" => self.area(name, |areas| areas.precision_recall),
            "roc_auc" => self.area(name, |areas| areas.roc),
            _ => panic!("de_metrics: no measure {name:?}"),
        }
    }

    fn area(&self, name: &str, of: fn(&Areas) -> f64) -> Column {
        let quirks = self.definitions.quirks;
        let areas = self.areas.get_or_init(|| {
            let pairs = self.real.par_iter().zip(&self.pred);
            pairs.map(|(real, pred)| Areas::of(real, &scores(pred, quirks))).collect()
        });
        Column::new(name, areas.iter().map(|areas| Some(of(areas))).collect(), quirks)
    }
}

/// overlap (k = |R|) and precision (k = |Q|): `|R[..k] and Q[..k]| / k`, k at most `limit`; `None` for k = 0.
fn top(overlap: bool, limit: Option<usize>, real: &Genes, pred: &Genes) -> Option<f64> {
    let all = if overlap { real.ranked.len() } else { pred.ranked.len() };
    let k = limit.map_or(all, |limit| limit.min(all));
    let mut first = vec![false; real.fdr.len()];
    real.ranked.iter().take(k).for_each(|&g| first[g as usize] = true);
    let both = pred.ranked.iter().take(k).filter(|&&g| first[g as usize]).count();
    (k > 0).then(|| both as f64 / k as f64)
}

/// |R| and |Q| of the perturbations with any R.
fn count_pairs(real: &[Genes], pred: &[Genes]) -> Vec<Option<[f64; 2]>> {
    let pair = |(real, pred): (&Genes, &Genes)| {
        let [r, q] = [real, pred].map(|genes| genes.ranked.len() as f64);
        (r > 0.0).then_some([r, q])
    };
    real.iter().zip(pred).map(pair).collect()
}

/// Spearman of |R| and |Q| as cell-eval has it: 1 if no perturbation has any R.
fn spearman_or_one(real: &[f64], pred: &[f64]) -> f64 {
    if real.is_empty() { 1.0 } else { spearman(real, pred) }
}

/// Share of R, or of R and Q, whose log fold changes have the same sign in both.
fn direction_match(real: &Genes, pred: &Genes, both: bool) -> Option<f64> {
    let sign = |x: f64| (x > 0.0) as i8 - (x < 0.0) as i8;
    let asked: Vec<usize> =
        real.ranked.iter().map(|&g| g as usize).filter(|&g| !both || pred.significant(g)).collect();
    let same = asked.iter().filter(|&&g| sign(real.log_fold[g]) == sign(pred.log_fold[g])).count();
    (!asked.is_empty()).then(|| same as f64 / asked.len() as f64)
}

/// Spearman of the fold changes over R.
fn fold_correlation(real: &Genes, pred: &Genes) -> Option<f64> {
    let of =
        |side: &Genes| -> Vec<f64> { real.ranked.iter().map(|&g| side.fold_change[g as usize]).collect() };
    (!real.ranked.is_empty()).then(|| spearman(&of(real), &of(pred)))
}

/// |R and Q| / |R|.
fn recall(real: &Genes, pred: &Genes) -> Option<f64> {
    let n = real.ranked.len();
    (n > 0).then(|| real.ranked.iter().filter(|&&g| pred.significant(g as usize)).count() as f64 / n as f64)
}

/// How sure pred is of each gene; only the order matters.
fn scores(pred: &Genes, quirks: bool) -> Vec<f64> {
    match quirks {
        // -log10 fdr in f32. What stands for infinity ranks the surest genes below many others, as in cell-eval 0.6.6
        // (`compute_generic_auc`).
        true => {
            pred.fdr.iter().map(|&q| if q == 0.0 { 10.0 } else { f64::from(-q.log10() as f32) }).collect()
        }
        false => pred.fdr.iter().map(|&q| -q).collect(),
    }
}

/// Areas under the curves of the scores for R against the rest; NaN if R is no gene or every gene.
struct Areas {
    /// Area under the steps of precision over recall.
    precision_recall: f64,
    roc: f64,
}

impl Areas {
    fn of(real: &Genes, scores: &[f64]) -> Areas {
        let positives = real.ranked.len();
        let negatives = real.fdr.len() - positives;
        if positives == 0 || negatives == 0 {
            return Areas { precision_recall: f64::NAN, roc: f64::NAN };
        }
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_unstable_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        let (mut hits, mut misses) = (0, 0);
        let mut areas = Areas { precision_recall: 0.0, roc: 0.0 };
        for tied in order.chunk_by(|&a, &b| scores[a] == scores[b]) {
            let new_hits = tied.iter().filter(|&&g| real.significant(g)).count();
            let new_misses = tied.len() - new_hits;
            let half = (2 * hits + new_hits) as f64 / 2.0;
            hits += new_hits;
            misses += new_misses;
            let precision = hits as f64 / (hits + misses) as f64;
            areas.precision_recall += new_hits as f64 / positives as f64 * precision;
            areas.roc += new_misses as f64 / negatives as f64 * (half / positives as f64);
        }
        areas
    }
}
