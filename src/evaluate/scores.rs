//! Scores side by side: a column per predictor or cell type, a row per measure. For table.csv, the terminal and the page.

use std::borrow::Borrow;
use std::path::Path;

use super::board::{Board, Row};
use super::figures::chart::thousands;
use super::table::{self, Gaps};
use crate::error::Result;

/// One column.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Scores {
    /// The predictor's or the cell type's.
    pub name: String,
    /// One per measure; the same measures in all columns of a table.
    pub scores: Vec<Score>,
}

/// What a column holds for one measure.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Score {
    /// As in the header of results.csv.
    pub measure: String,
    /// Mean of the numbers over all perturbations of all boards; `None` if there are none.
    pub mean: Option<f64>,
    /// 95 % interval of the resampled means, if there is a single board and it was resampled.
    pub interval: Option<[f64; 2]>,
    /// The same for the prediction's mean minus this one.
    pub behind: Option<[f64; 2]>,
    /// What the mean leaves out.
    pub gaps: Gaps,
}

/// Every predictor's scores over all boards, the prediction first.
pub fn predictors<B: Borrow<Board>>(boards: &[B]) -> Vec<Scores> {
    let measures = measures(boards);
    let mut names: Vec<&String> = Vec::new();
    for row in boards.iter().flat_map(|board| &board.borrow().rows) {
        if !names.contains(&&row.name) {
            names.push(&row.name);
        }
    }
    let of = |name: &String| {
        let rows = boards.iter().filter_map(|board| board.borrow().rows.iter().find(|row| row.name == *name));
        Scores::of(name, &rows.collect::<Vec<_>>(), &measures, boards.len() == 1)
    };
    names.into_iter().map(of).collect()
}

/// The prediction of each board.
pub fn cell_types<B: Borrow<Board>>(boards: &[B]) -> Vec<Scores> {
    let measures = measures(boards);
    let of = |board: &Board| {
        let name = board.cell_type.as_deref().unwrap_or_default();
        Scores::of(name, &[&board.rows[0]], &measures, false)
    };
    boards.iter().map(|board| of(board.borrow())).collect()
}

/// The measures of all boards. cell-eval has no correlation of energy distances for a single perturbation, so a board or a ceiling
/// may lack what another has.
fn measures<B: Borrow<Board>>(boards: &[B]) -> Vec<&str> {
    let reports = boards.iter().map(|board| &board.borrow().report);
    let most = reports.max_by_key(|report| report.columns.len());
    most.map_or(Vec::new(), |report| report.columns.iter().map(|column| column.name.as_str()).collect())
}

impl Scores {
    fn of(name: &str, rows: &[&Row], measures: &[&str], resampled: bool) -> Scores {
        let score = |&measure: &&str| {
            let place = |row: &Row| row.columns.iter().position(|column| column.name == measure);
            let found: Vec<(&Row, usize)> = rows.iter().filter_map(|&row| Some((row, place(row)?))).collect();
            let columns = || found.iter().map(|&(row, i)| &row.columns[i]);
            let numbers: Vec<f64> =
                columns().flat_map(|c| c.values.iter().copied().flatten()).filter(|v| !v.is_nan()).collect();
            let bounds = |of: fn(&Row) -> &[[f64; 2]]| {
                let (row, i) = *found.first().filter(|_| resampled)?;
                of(row).get(i).copied().filter(|bounds| bounds.iter().all(|x| x.is_finite()))
            };
            Score {
                measure: measure.to_string(),
                mean: Some(numbers.iter().sum::<f64>() / numbers.len() as f64).filter(|mean| !mean.is_nan()),
                interval: bounds(|row| &row.intervals),
                behind: bounds(|row| &row.behind),
                gaps: columns().map(|column| column.gaps()).sum(),
            }
        };
        Scores { name: name.to_string(), scores: measures.iter().map(score).collect() }
    }

    /// The mean of a measure.
    pub fn mean(&self, measure: &str) -> Option<f64> {
        self.scores.iter().find(|score| score.measure == measure)?.mean
    }
}

/// What the means of measure `i` leave out: said once if it is the same for all columns.
///
/// # Panics
/// If a column has no such measure.
pub fn left_out(columns: &[Scores], i: usize) -> String {
    let gap = |column: &Scores| {
        let Gaps { null, nan } = column.scores[i].gaps;
        let counts = [(null, "null"), (nan, "NaN")];
        let said =
            counts.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{} {word}", thousands(*n as i64)));
        said.collect::<Vec<_>>().join(", ")
    };
    let all: Vec<String> = columns.iter().map(gap).collect();
    if all.iter().all(|gap| *gap == all[0]) {
        return all.into_iter().next().unwrap_or_default();
    }
    let mut said: Vec<String> = Vec::new();
    let mut kinds: Vec<&String> = all.iter().filter(|gap| !gap.is_empty()).collect();
    kinds.sort();
    kinds.dedup();
    for kind in kinds {
        let names = |same: bool| {
            let some = columns.iter().zip(&all).filter(|(_, gap)| (*gap == kind) == same);
            some.map(|(column, _)| column.name.as_str()).collect::<Vec<_>>()
        };
        let (with, without) = (names(true), names(false));
        said.push(match with.len() > 2 * without.len() {
            true => format!("{kind} except in {}", without.join(", ")),
            false => format!("{kind} in {}", with.join(", ")),
        });
    }
    said.join("; ")
}

/// Writes table.csv: `name` and one column per measure.
///
/// # Errors
/// A file that cannot be written.
///
/// # Panics
/// If a row has more or fewer scores than the first.
pub fn write(path: &Path, rows: &[Scores]) -> Result<()> {
    let Some(first) = rows.first() else { return Ok(()) };
    let measures = first.scores.iter().map(|score| &score.measure);
    let means = |row: &Scores| row.scores.iter().map(|score| Some(score.mean.unwrap_or(f64::NAN))).collect();
    table::write(path, "name", measures, rows.iter().map(|row| (row.name.as_str(), means(row))))
}
