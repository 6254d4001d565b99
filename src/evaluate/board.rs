//! A prediction and what its scores are compared with: baselines, the ceiling, intervals.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::bootstrap::{Contrast, Draws};
use super::ceiling::ceiling;
use super::judge::Judge;
use super::report::{Report, path};
use super::side::Side;
use super::table::{self, Column};
use super::totals::Fit;
use super::{Settings, registry};
use crate::aside;
use crate::error::{Error, Result};

/// What the prediction is called among the rows.
pub const PREDICTION: &str = "prediction";

/// What the ceiling is called among the rows.
pub const CEILING: &str = "ceiling";

/// Said where baselines were on another scale than the measured cells.
const BROUGHT: &str =
    "the baselines' log values were brought to the total that the measured cells are scaled to";

/// Said, with names, where baselines may be on another scale.
const UNSURE: &str = "it is not known what total the measured cells were scaled to, so it could not be compared with that of \
                      the baselines";

/// The scores of one predictor.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Row {
    /// [`PREDICTION`], [`CEILING`], or a baseline's.
    pub name: String,
    /// The same columns as in the prediction's report.
    pub columns: Vec<Column>,
    /// 95 % intervals of the resampled means, one per column; empty without `bootstrap`.
    pub intervals: Vec<[f64; 2]>,
    /// The same for the prediction's mean minus this one's.
    pub behind: Vec<[f64; 2]>,
}

/// The predictions of one cell type, or of all cells together.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Board {
    /// `None` if the cells were not split.
    pub cell_type: Option<String>,
    /// The prediction.
    pub report: Report,
    /// The prediction's first.
    pub rows: Vec<Row>,
    /// What a reader should know about the rows beside the prediction's.
    pub notes: Vec<String>,
}

/// A board to which predictors are still added: each is scored and need not be kept.
pub struct Draft<'a> {
    pub(super) cell_type: Option<String>,
    judge: Judge<'a>,
    report: Report,
    /// Names and columns, the prediction's first.
    scored: Vec<(String, Vec<Column>)>,
    notes: Vec<String>,
    /// Whose total could not be compared.
    unsure: Vec<String>,
}

brief!(Draft<'_>, |draft| cell_type: draft.cell_type);

impl<'a> Draft<'a> {
    /// Scores `pred` against `real`.
    ///
    /// # Errors
    /// What [`Judge`] refuses.
    pub fn new(
        cell_type: Option<String>,
        real: &'a Side,
        pred: &Side,
        settings: &Settings,
    ) -> Result<Draft<'a>> {
        let judge = Judge::new(real, settings)?;
        let report = judge.score(pred)?;
        let scored = vec![(PREDICTION.to_string(), report.columns.clone())];
        Ok(Draft { cell_type, judge, report, scored, notes: Vec::new(), unsure: Vec::new() })
    }

    /// Scores what stands beside the prediction: its log values are brought to the total of `real` (`totals`).
    ///
    /// # Errors
    /// What [`Judge`] refuses; a name that another row has.
    pub fn add(&mut self, name: &str, side: &Side) -> Result<()> {
        if name == CEILING || self.scored.iter().any(|(other, _)| other == name) {
            return Err(Error::setting(
                "beside",
                format!("{name:?} is the name of another row; give it one of its own"),
            ));
        }
        let (found, fit) = self.judge.score_beside(side)?;
        match fit {
            Fit::Same => {}
            Fit::Brought if self.notes.iter().any(|note| note == BROUGHT) => {}
            Fit::Brought => self.notes.push(BROUGHT.to_string()),
            Fit::Unknown => self.unsure.push(name.to_string()),
        }
        let said = self.report.notes();
        self.notes.extend(found.notes().into_iter().filter(|note| !said.contains(note)));
        self.scored.push((name.to_string(), found.columns));
        Ok(())
    }

    /// Adds the ceiling and the intervals, as the settings ask.
    ///
    /// # Errors
    /// What [`Judge`] refuses.
    pub fn board(self) -> Result<Board> {
        let Draft { cell_type, judge, report, mut scored, mut notes, unsure } = self;
        if !unsure.is_empty() {
            notes.insert(0, format!("{UNSURE}: {}", unsure.join(", ")));
        }
        let settings = &report.settings;
        if settings.ceiling
            && let Some(columns) = ceiling(&judge, &report.perturbations, settings)?
        {
            scored.push((CEILING.to_string(), columns));
        }
        let draws = Draws::new(settings.bootstrap, report.perturbations.len());
        let prediction =
            |column: &Column| report.column(&column.name).unwrap_or_else(|| unreachable!("the same columns"));
        let mut contrasts: Vec<Contrast> = Vec::new();
        for (name, columns) in scored.iter().filter(|_| settings.bootstrap > 0) {
            contrasts.extend(columns.iter().map(|column| (column, None)));
            let apart = columns.iter().filter(|_| name != PREDICTION);
            contrasts.extend(apart.map(|column| (prediction(column), Some(column))));
        }
        let mut found = draws.intervals(&contrasts).into_iter();
        let mut next = |count| found.by_ref().take(count).collect();
        let row = |(name, columns): (String, Vec<Column>)| {
            let intervals = next(columns.len());
            let behind = if name == PREDICTION { Vec::new() } else { next(columns.len()) };
            Row { name, columns, intervals, behind }
        };
        let rows = scored.into_iter().map(row).collect();
        Ok(Board { cell_type, report, rows, notes })
    }
}

impl Board {
    /// Scores `pred` and all of `beside`, by name, against `real`.
    ///
    /// # Errors
    /// What [`Judge`] refuses; a name given twice, or that of the prediction's or the ceiling's row.
    pub fn of(
        cell_type: Option<String>,
        real: &Side,
        pred: &Side,
        beside: &[(&str, &Side)],
        settings: &Settings,
    ) -> Result<Board> {
        let mut draft = Draft::new(cell_type, real, pred, settings)?;
        beside.iter().try_for_each(|(name, side)| draft.add(name, side))?;
        draft.board()
    }

    /// Writes results.csv, agg_results.csv, results.json, and, if there are tables, real_de.csv and pred_de.csv; returns their
    /// paths. The cell type goes before each file's name, as in cell-eval. `sources` are the files that were read.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, dir: &Path, sources: &Value) -> Result<Vec<PathBuf>> {
        let path = |file: &str| path(dir, self.cell_type.as_deref(), file);
        let mut written = ["results.csv", "agg_results.csv", "results.json"].map(path).to_vec();
        if let Some([real, pred]) = &self.report.tables {
            let [of_real, of_pred] = ["real_de.csv", "pred_de.csv"].map(path);
            let (real, pred) = rayon::join(|| real.write(&of_real), || pred.write(&of_pred));
            real.and(pred)?;
            written.extend([of_real, of_pred]);
        }
        table::write_results(&written[0], &self.report.perturbations, &self.report.columns)?;
        table::write_summary(&written[1], &self.report.columns)?;
        let mut all = self.json();
        all["files"] = sources.clone();
        let text =
            serde_json::to_string_pretty(&all).unwrap_or_else(|e| unreachable!("plain values: {e}")) + "\n";
        aside::whole(&written[2], text)?;
        Ok(written)
    }

    /// The report's JSON, with the other rows and the intervals.
    pub fn json(&self) -> Value {
        let mut all = self.report.json();
        let settings = &self.report.settings;
        all["settings"]["ceiling"] = json!(settings.ceiling);
        all["settings"]["bootstrap"] = json!(settings.bootstrap);
        for (column, interval) in self.rows[0].columns.iter().zip(&self.rows[0].intervals) {
            all["metrics"][&column.name]["interval"] = json!(interval);
        }
        if self.rows.len() > 1 {
            let row = |row: &Row| (row.name.clone(), row.json());
            all["beside"] = Value::Object(self.rows[1..].iter().map(row).collect());
        }
        all
    }
}

impl Row {
    fn json(&self) -> Value {
        let metric = |(i, column): (usize, &Column)| {
            let summary = column.summary();
            let mut entry = json!({
                "mean_of_numbers": summary.mean_of_numbers,
                "values": summary.count,
                "null": summary.null,
                "nan": summary.nan,
            });
            if let (Some(interval), Some(behind)) = (self.intervals.get(i), self.behind.get(i)) {
                entry["interval"] = json!(interval);
                entry["prediction_minus_this"] = json!(behind);
            }
            (column.name.clone(), entry)
        };
        Value::Object(self.columns.iter().enumerate().map(metric).collect::<Map<_, _>>())
    }
}

/// What a reader of the boards should know about the inputs and about what is missing.
pub fn notes(boards: &[Board]) -> Vec<String> {
    let of = |board: &Board| {
        let of = board.cell_type.as_ref().map_or(String::new(), |name| format!("{name}: "));
        let mut said = board.report.notes();
        if board.report.settings.ceiling && board.rows.iter().all(|row| row.name != CEILING) {
            said.push("no perturbation has two cells, so there is no ceiling".into());
        }
        said.into_iter().map(move |note| format!("{of}{note}"))
    };
    let mut notes: Vec<String> = boards.iter().flat_map(of).collect();
    for note in boards.iter().flat_map(|board| &board.notes) {
        if !notes.contains(note) {
            notes.push(note.clone());
        }
    }
    notes
}

/// The title of a column: the paper's name, if it has one, and cell-eval's.
pub fn title(column: &str) -> String {
    registry::paper(column).map_or(column.to_string(), |paper| format!("{paper} ({column})"))
}
