//! Rule sets: whose definitions the numbers follow.
//!
//! | | `cell-eval-0.6.6` (default) | `fixed` | `paper` (SCALE v1, appendix A) |
//! |---|---|---|---|
//! | control cells of a prediction | the prediction's own | the measured ones | the measured ones |
//! | raw counts of a prediction are scaled to | the median of its own totals | the median of the measured totals | as fixed (not in the paper) |
//! | `fdr` | Benjamini-Hochberg over all perturbations and genes together | each perturbation alone | each perturbation alone (not said) |
//! | significant | f32(fdr) < f32(0.05) | fdr < 0.05 | fdr < 0.05 |
//! | fold change | m / m', m = expm1(mean log1p); 20 or 1/20 where one is zero, 1 where both are | (m + e) / (m' + e), e = 0.01 | the same of mean log1p values; e = 0.01 (not given) |
//! | `overlap_at_*`, `precision_at_*` | 0 where the list is empty | left out there | left out there |
//! | `de_direction_match` | share of the real list | as cell-eval | share of the genes in both lists |
//! | `de_spearman_lfc_sig` | NaN below two genes | left out there | left out there |
//! | `de_sig_genes_recall`, `de_nsig_counts` | | as cell-eval | as cell-eval (not in the paper) |
//! | `de_spearman_sig` | 1 without any list, NaN below two | left out there | as fixed (not in the paper) |
//! | `pr_auc`, `roc_auc` | an fdr of 0 scores below one of 1e-11; NaN where all genes or none are real | by fdr, 0 the surest; left out there | as fixed |
//! | `pearson_delta` | NaN for a constant change | left out there | as fixed |
//! | `mse`, `mae` | mean over genes, of profiles | as cell-eval | **sum** over genes, of changes |
//! | `mse_delta`, `mae_delta` | mean over genes, of changes | as cell-eval | as cell-eval (not in the paper) |
//! | `discrimination_score_*` | 1 - rank / P, own gene left out, ties by name | 1 - rank / (P - 1), own gene left out, ties shared | 1 - rank / P, all genes, ties do not count |
//! | `pearson_edistance` | left out below two perturbations | NaN is left out | as fixed (not in the paper) |
//! | `r2` | | | 1 - SSE / SST of the profiles over genes |
//!
//! "Left out" is null: an empty field of results.csv, not in the mean, counted in `null_count`. cell-eval's quirks are what the
//! code of cell-eval 0.6.6 and pdex 0.1.27 does, intended or not. Two of the paper's statements do not hold for cell-eval and are
//! not followed: "as many control as perturbed cells" (all control cells are used) and an epsilon whose value is not given.
//!
//! What differs from cell-eval's files by any rule set:
//!
//! - Values are f32. From a file of float64, cell-eval computes in f64, where fewer values tie: its p-values differ then, and the
//!   sign of a change that is zero but for rounding may. From one of float16 it takes its means in f16, which moves them by up to
//!   2e-3.
//! - Whole numbers below zero are no expression and are refused; cell-eval leaves out the columns that fail.
//! - Exact ties in `discrimination_score_*` are broken by name; cell-eval leaves them to numpy's sort, which is not stable.
//! - `discrimination_score_*` is null where no gene is left to rank by; cell-eval then leaves the columns out.
//! - `pearson_edistance` is undefined if the energy distances of one side are all the same, as those of one predicted profile for all
//!   perturbations are; in cell-eval they differ by rounding, and the number is noise.
//! - cell-eval leaves out the columns `de_direction_match`, `de_spearman_lfc_sig` and `de_sig_genes_recall` if no perturbation has
//!   a significant gene in the measurement, and `pearson_delta` if there is one gene; here they stay, empty or NaN.
//! - In agg_results.csv, `max` of a column that has only nulls and NaN is NaN; cell-eval leaves it empty.
//! - Columns of one gene name are separate genes; pdex mixes them up.
//!
//! 0.01 is the smallest mean worth telling from zero: a gene found once in a hundred cells of 10,000 counts each.
//!
//! `clustering_agreement` has no rule set: it is a Leiden clustering of a UMAP graph, whose random numbers are igraph's; two
//! environments in which cell-eval 0.6.6 runs gave 0.015 and 0.65 for the same two files.

use serde::{Deserialize, Serialize};

/// Added to both means of a fold change if the rule set says so.
pub const PSEUDOCOUNT: f64 = 0.01;

/// A rule set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rules {
    /// cell-eval 0.6.6 with pdex 0.1.27, quirks included.
    #[default]
    #[serde(rename = "cell-eval-0.6.6")]
    CellEval066,
    /// The same measures with their documented defects corrected.
    #[serde(rename = "fixed")]
    Fixed,
    /// The formulas of the paper's appendix A.
    #[serde(rename = "paper")]
    Paper,
}

/// Whose control cells a prediction is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Controls {
    /// Those of the prediction's own file.
    Own,
    /// The measured ones.
    Real,
}

/// Which tests are adjusted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// All perturbations and genes.
    Table,
    /// The genes of each perturbation.
    Perturbation,
}

/// What a fold change is the ratio of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fold {
    /// expm1 of mean logs; 20, 1/20 or 1 if a zero rules out a ratio.
    Substitutes,
    /// expm1 of mean logs, [`PSEUDOCOUNT`] added.
    Counts,
    /// Mean logs, [`PSEUDOCOUNT`] added.
    Logs,
}

/// How the right change is ranked among all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Discrimination {
    /// Without the perturbation's own gene, ties by name, out of P.
    ByName,
    /// Without the perturbation's own gene, ties share the mean of their ranks, out of P - 1.
    Shared,
    /// All genes, only nearer changes count, out of P.
    Strict,
}

/// What the rule sets differ in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Definitions {
    /// Whose control cells a prediction is compared with.
    pub controls: Controls,
    /// Which tests are adjusted together.
    pub family: Family,
    /// What a fold change is the ratio of.
    pub fold: Fold,
    /// How the right change is ranked among all.
    pub discrimination: Discrimination,
    /// Whether undefined values become cell-eval's numbers (0, 1, NaN), tables are rounded to f32 before they are compared, and an
    /// fdr of zero counts as 1e-10. Otherwise undefined values are left out.
    pub quirks: bool,
    /// Whether `mse`, `mae` and `de_direction_match` are appendix A's, and `r2` is computed.
    pub appendix: bool,
}

impl Rules {
    /// All rule sets, the default first.
    pub const ALL: [Rules; 3] = [Rules::CellEval066, Rules::Fixed, Rules::Paper];

    /// The name users write.
    pub fn name(self) -> &'static str {
        match self {
            Rules::CellEval066 => "cell-eval-0.6.6",
            Rules::Fixed => "fixed",
            Rules::Paper => "paper",
        }
    }

    /// What it prescribes.
    pub fn definitions(self) -> Definitions {
        let fixed = Definitions {
            controls: Controls::Real,
            family: Family::Perturbation,
            fold: Fold::Counts,
            discrimination: Discrimination::Shared,
            quirks: false,
            appendix: false,
        };
        match self {
            Rules::CellEval066 => Definitions {
                controls: Controls::Own,
                family: Family::Table,
                fold: Fold::Substitutes,
                discrimination: Discrimination::ByName,
                quirks: true,
                appendix: false,
            },
            Rules::Fixed => fixed,
            Rules::Paper => Definitions {
                fold: Fold::Logs,
                discrimination: Discrimination::Strict,
                appendix: true,
                ..fixed
            },
        }
    }
}

impl Controls {
    /// The policy in words, for tables and reports.
    pub fn words(self) -> &'static str {
        match self {
            Controls::Own => "each side's own control cells",
            Controls::Real => "the measured control cells, for both sides",
        }
    }
}
