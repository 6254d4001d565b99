//! What one prediction scored, and how.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;
use serde_json::{Map, Value, json};

use super::Settings;
use super::de::Table;
use super::lognorm::{Held, Logs};
use super::registry;
use super::rules::Controls;
use super::side::{Groups, Side};
use super::table::Column;

/// What a side contained.
#[derive(Clone, Debug, serde::Serialize)]
#[non_exhaustive]
pub struct Counts {
    /// The file it came from.
    pub source: PathBuf,
    /// Cells of all labels.
    pub cells: usize,
    /// Its own control cells, whether or not it is compared with them.
    pub control_cells: usize,
    /// Cells of the smallest perturbation.
    pub fewest_cells: usize,
    /// Raw counts or logs.
    pub held: Held,
    /// Total to which counts were scaled, or a baseline's log values were brought.
    pub total: Option<f32>,
    /// Mean over all cells and genes, on the log1p scale.
    pub mean: f64,
}

impl Counts {
    /// `logs`: the side's values on the log1p scale.
    pub(super) fn of(side: &Side, groups: &Groups, logs: &Logs) -> Counts {
        let (cells, genes) = logs.x.shape();
        let sum: f64 = logs.x.values().par_chunks(PIECE).map(sum).collect::<Vec<f64>>().iter().sum();
        Counts {
            source: side.source.clone(),
            cells: groups.cells.len(),
            control_cells: groups.size(0),
            fewest_cells: (1..=groups.perturbations.len()).map(|g| groups.size(g)).min().unwrap_or(0),
            held: logs.held,
            total: logs.total,
            mean: sum / (cells * genes).max(1) as f64 + 0.0, // a sum of nothing is -0.0
        }
    }
}

/// Numbers added in one go: fixed, so that the sum does not depend on the number of threads.
const PIECE: usize = 1 << 16;

fn sum(values: &[f32]) -> f64 {
    values.iter().map(|&x| f64::from(x)).sum()
}

/// Sides whose means differ by this factor are hardly on one scale: log2 of the same cells is 1.44 times their log1p.
const FAR: f64 = 1.3;

/// The outcome for one prediction.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// How it was made.
    pub settings: Settings,
    /// Sorted; the rows of `columns`, `[P]`.
    pub perturbations: Vec<String>,
    /// Gene names, `[G]`.
    pub genes: Vec<String>,
    /// Real and pred.
    pub sides: [Counts; 2],
    /// In cell-eval's order.
    pub columns: Vec<Column>,
    /// Differential expression of real and pred, if a measure needed it.
    pub tables: Option<[Arc<Table>; 2]>,
    /// Perturbed minus control mean profiles of real and pred, `[P, G]` each, if a measure needed them.
    pub changes: Option<[Arc<[Vec<f32>]>; 2]>,
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
        let shared = self.settings.rules.definitions().controls == Controls::Real && real.held == pred.held;
        for (side, whose) in [(real, "its own"), (pred, if shared { "the measured" } else { "its own" })] {
            if side.held == Held::Counts {
                let source = side.source.display();
                notes.push(format!(
                    "{source}: raw counts, scaled to the median total of {whose} cells, then log1p"
                ));
            }
        }
        let brought = pred.held == Held::Logs && pred.total.is_some();
        if real.held != pred.held && !brought {
            let what =
                "one side has counts, the other log values: their totals may differ, and so may every mean";
            notes.push(what.to_string());
        }
        let (most, least) = if pred.mean > real.mean { (pred, real) } else { (real, pred) };
        if most.mean > FAR * least.mean {
            notes.push(format!(
                "the mean value of {} is {:.2} and that of {} is {:.2}: are both the natural log1p of cells scaled to the same total?",
                most.source.display(),
                most.mean,
                least.source.display(),
                least.mean
            ));
        }
        let mut names: Vec<&String> = self.genes.iter().collect();
        names.sort_unstable();
        let repeated = names.chunk_by(|a, b| a == b).filter(|same| same.len() > 1).count();
        if repeated > 0 {
            notes.push(format!(
                "gene names that appear more than once: {repeated}; each column counts as a separate gene"
            ));
        }
        notes
    }

    /// Rules, settings, counts and the mean of every column. `mean` is cell-eval's (null if it is NaN); `mean_of_numbers` leaves
    /// out NaN values.
    pub fn json(&self) -> Value {
        let metrics: Map<String, Value> =
            self.columns.iter().map(|c| (c.name.clone(), metric_json(c))).collect();
        let definitions = self.settings.rules.definitions();
        json!({
            "rules": self.settings.rules.name(),
            "definitions": definitions,
            "controls": definitions.controls.words(),
            "program": crate::PROGRAM,
            "settings": {
                "control_pert": self.settings.control,
                "profile": self.settings.profile,
                "skip_metrics": self.settings.skip_metrics,
            },
            "not_computed": [registry::ABSENT],
            "perturbations": self.perturbations.len(),
            "genes": self.genes.len(),
            "real": self.sides[0],
            "pred": self.sides[1],
            "metrics": metrics,
        })
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
        "best": metric.and_then(|metric| metric.best),
    });
    if let Some(paper) = registry::paper(&column.name) {
        entry["paper"] = json!(paper);
    }
    entry
}

/// The path of results.json or another file in `dir`; `name`, if any, goes before the file's name, as in cell-eval.
pub(super) fn path(dir: &Path, name: Option<&str>, file: &str) -> PathBuf {
    let prefix = name.map_or(String::new(), |name| prefix(name) + "_");
    dir.join(format!("{prefix}{file}"))
}

/// Most bytes of a cell type, a perturbation or both in the name of a file: file systems allow 255, and a file that is being written
/// has a longer name.
const LONGEST: usize = 120;

/// A cell type, as its files' names begin with it.
pub(super) fn prefix(name: &str) -> String {
    shortened(name.replace('/', "-"), name)
}

/// What a file's name says of `name`: all of `plain`, or its beginning and a checksum of `name`.
pub(super) fn shortened(plain: String, name: &str) -> String {
    if plain.len() <= LONGEST {
        return plain;
    }
    let end = (0..=LONGEST).rfind(|&at| plain.is_char_boundary(at)).unwrap_or(0);
    format!("{}-{:08x}", &plain[..end], crc32fast::hash(name.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::prefix;

    #[test]
    fn a_long_cell_type_makes_a_file_name_that_fits_and_is_its_own() {
        let long = "ü/".repeat(150);
        let [one, other] = [prefix(&long), prefix(&(long.clone() + "x"))];
        assert!(one != other && one.starts_with("ü-ü-") && one.len() <= 129, "{one}");
        assert_eq!(prefix("A/B"), "A-B");
    }
}
