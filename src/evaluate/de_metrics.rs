//! Measures of agreement between two differential expression tables (../shared/spec/cell-eval.md, section 7).
//!
//! R, Q: significant genes of real and pred, largest |log2 fold change| first. `None` is cell-eval's null (no significant
//! real gene, left out of means), NaN its NaN (undefined, and means become NaN).

use rayon::prelude::*;

use super::correlation::spearman;
use super::significant::Genes;

/// A value a perturbation; the perturbations of `real` and `pred` are the same, in the same order. `name` is a measure of
/// [`super::registry::METRICS`] that needs the tables; `de_nsig_counts` counts here as its two columns.
pub fn column(name: &str, real: &[Genes], pred: &[Genes]) -> Vec<Option<f64>> {
    let each = |value: fn(&Genes, &Genes) -> Option<f64>| -> Vec<Option<f64>> {
        real.par_iter().zip(pred).map(|(real, pred)| value(real, pred)).collect()
    };
    if let Some((kind, k)) = name.split_once("_at_") {
        return top(kind == "overlap", k.parse().ok(), real, pred);
    }
    match name {
        "de_spearman_sig" => vec![Some(count_correlation(real, pred)); real.len()],
        "de_direction_match" => each(direction_match),
        "de_spearman_lfc_sig" => each(fold_correlation),
        "de_sig_genes_recall" => each(recall),
        "de_nsig_counts_real" => each(|real, _| Some(real.ranked.len() as f64)),
        "de_nsig_counts_pred" => each(|_, pred| Some(pred.ranked.len() as f64)),
        "pr_auc" => each(|real, pred| Some(areas(real, pred).0)),
        "roc_auc" => each(|real, pred| Some(areas(real, pred).1)),
        _ => panic!("de_metrics: no measure {name:?}"),
    }
}

/// overlap (k = |R|) and precision (k = |Q|): `|R[..k] and Q[..k]| / k`, k at most `limit`.
fn top(overlap: bool, limit: Option<usize>, real: &[Genes], pred: &[Genes]) -> Vec<Option<f64>> {
    let none = |side: &[Genes]| side.iter().all(|genes| genes.ranked.is_empty());
    let silent = none(real) || none(pred);
    let share = |(r, q): (&Genes, &Genes)| {
        let all = if overlap { r.ranked.len() } else { q.ranked.len() };
        let k = limit.map_or(all, |limit| limit.min(all));
        if k == 0 || silent {
            return Some(0.0);
        }
        let mut first = vec![false; r.fdr.len()];
        r.ranked.iter().take(k).for_each(|&g| first[g as usize] = true);
        let both = q.ranked.iter().take(k).filter(|&&g| first[g as usize]).count();
        Some(both as f64 / k as f64)
    };
    real.par_iter().zip(pred).map(share).collect()
}

/// Spearman of |R| and |Q| over the perturbations with any R.
fn count_correlation(real: &[Genes], pred: &[Genes]) -> f64 {
    let counts = |side: &[Genes]| -> Vec<f64> {
        let kept = side.iter().zip(real).filter(|(_, real)| !real.ranked.is_empty());
        kept.map(|(genes, _)| genes.ranked.len() as f64).collect()
    };
    let (a, b) = (counts(real), counts(pred));
    if a.is_empty() { 1.0 } else { spearman(&a, &b) }
}

/// Share of R whose log fold changes have the same sign in both; whether pred finds the gene significant does not matter.
fn direction_match(real: &Genes, pred: &Genes) -> Option<f64> {
    let sign = |x: f32| (x > 0.0) as i8 - (x < 0.0) as i8;
    let same = |&&g: &&u32| sign(real.log_fold[g as usize]) == sign(pred.log_fold[g as usize]);
    let n = real.ranked.len();
    (n > 0).then(|| real.ranked.iter().filter(same).count() as f64 / n as f64)
}

/// Spearman of the fold changes over R.
fn fold_correlation(real: &Genes, pred: &Genes) -> Option<f64> {
    let of = |side: &Genes| -> Vec<f64> {
        real.ranked.iter().map(|&g| f64::from(side.fold_change[g as usize])).collect()
    };
    (!real.ranked.is_empty()).then(|| spearman(&of(real), &of(pred)))
}

/// |R and Q| / |R|.
fn recall(real: &Genes, pred: &Genes) -> Option<f64> {
    let n = real.ranked.len();
    (n > 0).then(|| real.ranked.iter().filter(|&&g| pred.significant(g as usize)).count() as f64 / n as f64)
}

/// Areas under the precision-recall steps and the ROC curve of pred's -log10 fdr for R against the rest.
fn areas(real: &Genes, pred: &Genes) -> (f64, f64) {
    let positives = real.ranked.len();
    let negatives = real.fdr.len() - positives;
    if positives == 0 || negatives == 0 {
        return (f64::NAN, f64::NAN);
    }
    // The replacement puts the surest genes below many others; cell-eval 0.6.6 does so (spec, Q11).
    let score = |&q: &f32| if q == 0.0 { 10.0 } else { -f64::from(q).log10() as f32 };
    let scores: Vec<f32> = pred.fdr.iter().map(score).collect();
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_unstable_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let (mut hits, mut misses) = (0, 0);
    let (mut precision_area, mut roc_area) = (0.0, 0.0);
    for tied in order.chunk_by(|&a, &b| scores[a] == scores[b]) {
        let new_hits = tied.iter().filter(|&&g| real.significant(g)).count();
        let new_misses = tied.len() - new_hits;
        let half = (2 * hits + new_hits) as f64 / 2.0;
        hits += new_hits;
        misses += new_misses;
        precision_area += new_hits as f64 / positives as f64 * (hits as f64 / (hits + misses) as f64);
        roc_area += new_misses as f64 / negatives as f64 * (half / positives as f64);
    }
    (precision_area, roc_area)
}
