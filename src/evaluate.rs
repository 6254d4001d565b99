//! How well predicted cells match measured ones: the field's measures, by cell-eval 0.6.6's definitions.
//!
//! ```text
//!   two sides (cells, labels, genes) -> logs -> groups -> differential expression -> agreement of gene lists ─┐
//!                                                      -> mean profiles           -> agreement of profiles  ──┴> Report
//! ```
//! The definitions, quirks included, are those of ../shared/spec/cell-eval.md.

pub mod columns;
pub mod correlation;
pub mod de;
pub mod de_metrics;
pub mod expression;
pub mod files;
pub mod lognorm;
pub mod null;
pub mod pairwise;
pub mod pseudobulk;
pub mod ranksum;
pub mod registry;
pub mod side;
pub mod significant;
pub mod table;

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::aside;
use crate::error::{At, Result};
use de::Table;
use expression::Profiles;
use lognorm::Held;
use pseudobulk::Pseudobulk;
use registry::{Metric, Profile, Rules};
use side::{Groups, Side};
use table::Column;

pub use correlation::{pearson, spearman};
pub use expression::{mae, mse, pearson_delta};

/// What to compare, and by which definitions.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Label of the control cells.
    pub control: String,
    /// Whose definitions.
    pub rules: Rules,
    /// Which measures.
    pub profile: Profile,
    /// Measures to leave out, by registry name.
    pub skip: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            control: "non-targeting".to_string(),
            rules: Rules::default(),
            profile: Profile::default(),
            skip: Vec::new(),
        }
    }
}

/// What a side was.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Counts {
    /// The file it came from.
    pub source: String,
    /// Cells of all labels.
    pub cells: usize,
    /// Cells of the control.
    pub control_cells: usize,
    /// Cells of the smallest perturbation.
    pub fewest_cells: usize,
    /// Raw counts or logs.
    pub held: Held,
}

/// The outcome.
#[derive(Clone, Debug)]
pub struct Report {
    /// How it was made.
    pub settings: Settings,
    /// Sorted; the rows of the columns.
    pub perturbations: Vec<String>,
    /// Number of genes.
    pub genes: usize,
    /// Gene names that stand more than once.
    pub repeated: usize,
    /// Real and pred.
    pub sides: [Counts; 2],
    /// One a measure, in cell-eval's order.
    pub columns: Vec<Column>,
    /// Differential expression of real and pred, where a measure needed it.
    pub tables: Option<[Table; 2]>,
}

/// Compares two sides.
///
/// Errors: other genes or labels, no control, cells without label, values that are no expression (`lognorm`), a measure's
/// name that is unknown.
pub fn evaluate(real: &Side, pred: &Side, settings: &Settings) -> Result<Report> {
    let metrics = registry::choose(settings.profile, &settings.skip)?;
    let real_groups = Groups::of(real, &settings.control)?;
    let pred_groups = Groups::of(pred, &settings.control)?;
    side::check_match(real, pred, &real_groups, &pred_groups)?;
    let (real_x, real_held) = lognorm::log_normalised(real)?;
    let (pred_x, pred_held) = lognorm::log_normalised(pred)?;
    let perturbations = real_groups.perturbations.clone();

    let mut columns = Vec::new();
    let mut tables = None;
    if metrics.iter().any(|metric| metric.de) {
        let table = |x, groups| Table::of(x, groups, &real.genes, &settings.control);
        let pair = [table(&real_x, &real_groups), table(&pred_x, &pred_groups)];
        let [a, b] = [&pair[0], &pair[1]].map(|table| significant::view(table, &perturbations));
        for name in metrics.iter().filter(|metric| metric.de).flat_map(|metric| metric.columns()) {
            columns.push(Column { values: de_metrics::column(&name, &a, &b), name });
        }
        tables = Some(pair);
    }
    if metrics.iter().any(|metric| !metric.de) {
        let bulks = [Pseudobulk::of(&real_x, &real_groups), Pseudobulk::of(&pred_x, &pred_groups)];
        let [a, b] = bulks;
        let profiles = Profiles::new(a, b, &perturbations, &real.genes);
        for name in metrics.iter().filter(|metric| !metric.de).flat_map(|metric| metric.columns()) {
            columns.push(Column { values: profiles.column(&name), name });
        }
    }
    let sides = [counts(real, &real_groups, real_held), counts(pred, &pred_groups, pred_held)];
    let mut names: Vec<&String> = real.genes.iter().collect();
    names.sort_unstable();
    let repeated = names.chunk_by(|a, b| a == b).filter(|same| same.len() > 1).count();
    let genes = real.genes.len();
    Ok(Report { settings: settings.clone(), perturbations, genes, repeated, sides, columns, tables })
}

fn counts(side: &Side, groups: &Groups, held: Held) -> Counts {
    Counts {
        source: side.source.display().to_string(),
        cells: groups.cells.len(),
        control_cells: groups.size(0),
        fewest_cells: (1..=groups.perturbations.len()).map(|g| groups.size(g)).min().unwrap_or(0),
        held,
    }
}

impl Report {
    /// A column by name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// What a reader of the numbers should know about the inputs.
    pub fn notes(&self) -> Vec<String> {
        let [real, pred] = &self.sides;
        let mut notes = Vec::new();
        for side in &self.sides {
            if side.held == Held::Counts {
                notes.push(format!(
                    "{}: raw counts, scaled to the median total of its own cells, then log1p",
                    side.source
                ));
            }
        }
        if real.held != pred.held {
            notes.push(
                "one side held counts, the other logs: their totals may differ, and with them every mean"
                    .to_string(),
            );
        }
        if self.repeated > 0 {
            notes.push(format!(
                "{} gene names stand more than once; each column counts as a gene",
                self.repeated
            ));
        }
        notes
    }

    /// Settings, versions, counts and the mean of every column. `mean` is cell-eval's (null where it is NaN);
    /// `mean_of_numbers` leaves out what is NaN.
    pub fn json(&self) -> Value {
        let metrics: Map<String, Value> =
            self.columns.iter().map(|c| (c.name.clone(), metric_json(c))).collect();
        let skip = &self.settings.skip;
        json!({
            "rules": self.settings.rules.name(),
            "program": format!("scale-engine {}", env!("CARGO_PKG_VERSION")),
            "settings": {
                "control_pert": self.settings.control,
                "profile": self.settings.profile,
                "skip_metrics": skip,
            },
            "not_computed": registry::ABSENT,
            "perturbations": self.perturbations.len(),
            "genes": self.genes,
            "real": self.sides[0],
            "pred": self.sides[1],
            "metrics": metrics,
        })
    }

    fn write_json(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.json()).expect("plain values") + "\n";
        aside::file(path, |aside| std::fs::write(aside, text).at(aside))
    }
}

fn metric_json(column: &Column) -> Value {
    let summary = column.summary();
    let metric = registry::metric_of(&column.name);
    let mut entry = json!({
        "mean": summary.mean,
        "mean_of_numbers": summary.mean_of_numbers,
        "values": summary.count,
        "null": summary.null,
        "nan": summary.nan,
        "best": metric.and_then(|metric: &Metric| metric.best),
    });
    if let Some(paper) = metric.map(|metric| metric.paper).filter(|paper| !paper.is_empty()) {
        entry["paper"] = json!(paper);
    }
    entry
}
