//! Which measures there are, in the order of the result's columns, and which profile has which.

use serde::{Deserialize, Serialize};

use super::rules::Rules;
use crate::error::{Error, Result, unknown};

/// A choice of measures, as cell-eval names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// All.
    #[default]
    Full,
    /// The quick ones: pearson_delta, mse, mae, discrimination_score_l1, overlap_at_N, precision_at_N, de_nsig_counts.
    Minimal,
    /// mae, discrimination_score_l1, overlap_at_N: those of the Virtual Cell Challenge.
    Vcc,
    /// Measures of differential expression.
    De,
    /// Measures of mean profiles. Unlike cell-eval's, it does not compute or write differential expression.
    Anndata,
    /// discrimination_score_l1.
    Pds,
}

impl Profile {
    /// As cell-eval names it.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Full => "full",
            Profile::Minimal => "minimal",
            Profile::Vcc => "vcc",
            Profile::De => "de",
            Profile::Anndata => "anndata",
            Profile::Pds => "pds",
        }
    }
}

/// A measure, by cell-eval's registry name.
#[derive(Debug)]
pub struct Metric {
    /// As [`Settings::skip_metrics`](super::Settings::skip_metrics) takes it.
    pub name: &'static str,
    /// Needs the differential expression tables.
    pub de: bool,
    /// The paper's name (SCALE v1, appendix A).
    pub paper: &'static str,
    /// Best value; `None` for counts, which have no best.
    pub best: Option<f64>,
}

const fn de(name: &'static str, paper: &'static str) -> Metric {
    Metric { name, de: true, paper, best: Some(1.0) }
}

const fn expression(name: &'static str, paper: &'static str, best: f64) -> Metric {
    Metric { name, de: false, paper, best: Some(best) }
}

/// All measures, in the order of the columns.
pub const METRICS: [Metric; 27] = [
    de("overlap_at_N", "DEOver"),
    de("overlap_at_50", ""),
    de("overlap_at_100", ""),
    de("overlap_at_200", ""),
    de("overlap_at_500", ""),
    de("precision_at_N", "DEPrec"),
    de("precision_at_50", ""),
    de("precision_at_100", ""),
    de("precision_at_200", ""),
    de("precision_at_500", ""),
    de("de_spearman_sig", ""),
    de("de_direction_match", "DirAgr"),
    de("de_spearman_lfc_sig", "LFCspear"),
    de("de_sig_genes_recall", ""),
    Metric { name: NSIG, de: true, paper: "", best: None },
    de("pr_auc", "AUPRC"),
    de("roc_auc", "AUROC"),
    expression("pearson_delta", "PDCorr", 1.0),
    expression("mse", "MSE", 0.0),
    expression("mae", "MAE", 0.0),
    expression("mse_delta", "", 0.0),
    expression("mae_delta", "", 0.0),
    expression("discrimination_score_l1", "PDS_L1", 1.0),
    expression("discrimination_score_l2", "PDS_L2", 1.0),
    expression("discrimination_score_cosine", "PDS_cos", 1.0),
    expression(EDISTANCE, "", 1.0),
    expression(R2, "R2", 1.0),
];

/// The only measure with two columns, `_real` and `_pred`.
const NSIG: &str = "de_nsig_counts";

/// The only measure on single cells instead of means.
pub const EDISTANCE: &str = "pearson_edistance";

/// The only measure that cell-eval lacks; it belongs to the paper's rules.
const R2: &str = "r2";

/// cell-eval's measure that is not computed here; [`super::rules`] says why.
pub const ABSENT: &str = "clustering_agreement";

impl Profile {
    fn holds(self, metric: &Metric) -> bool {
        match self {
            Profile::Full => true,
            Profile::De => metric.de,
            Profile::Anndata => !metric.de,
            Profile::Minimal => matches!(
                metric.name,
                "pearson_delta"
                    | "mse"
                    | "mae"
                    | "discrimination_score_l1"
                    | "overlap_at_N"
                    | "precision_at_N"
                    | NSIG
            ),
            Profile::Vcc => matches!(metric.name, "mae" | "discrimination_score_l1" | "overlap_at_N"),
            Profile::Pds => metric.name == "discrimination_score_l1",
        }
    }
}

/// The measures to compute.
///
/// # Errors
/// A name to skip that is no measure's, or nothing left.
pub fn choose(rules: Rules, profile: Profile, skip: &[String]) -> Result<Vec<&'static Metric>> {
    let names: Vec<&str> = METRICS.iter().map(|m| m.name).chain([ABSENT]).collect();
    if let Some(name) = skip.iter().find(|name| !names.contains(&name.as_str())) {
        return Err(Error::setting("skip_metrics", unknown("metric", name, &names)));
    }
    let chosen: Vec<&Metric> = METRICS
        .iter()
        .filter(|m| m.name != R2 || rules.definitions().appendix)
        .filter(|m| profile.holds(m) && !skip.iter().any(|name| name == m.name))
        .collect();
    if chosen.is_empty() {
        return Err(Error::setting("skip_metrics", "nothing is left to compute"));
    }
    Ok(chosen)
}

/// The measure a column of the results belongs to.
pub fn metric_of(column: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|m| m.name == column || (m.name == NSIG && column.starts_with(NSIG)))
}

/// The paper's name of that measure, if it has one.
pub fn paper(column: &str) -> Option<&'static str> {
    metric_of(column).map(|metric| metric.paper).filter(|paper| !paper.is_empty())
}

impl Metric {
    /// The columns of results.csv that hold this measure.
    pub fn columns(&self) -> Vec<String> {
        match self.name {
            NSIG => ["real", "pred"].map(|side| format!("{NSIG}_{side}")).to_vec(),
            name => vec![name.to_string()],
        }
    }
}
