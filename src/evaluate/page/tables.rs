//! The scores: a row a measure, a column a predictor or a cell type.

use crate::evaluate::board::{Board, CEILING, PREDICTION, Row, pooled};
use crate::evaluate::figures::chart::{escape, thousands};
use crate::evaluate::figures::strip::Strip;
use crate::evaluate::registry::{Metric, metric_of};
use crate::evaluate::table::Column;

/// One column.
struct Shown {
    name: String,
    cells: Vec<Cell>,
}

/// One number and what is known of it.
#[derive(Default)]
struct Cell {
    mean: Option<f64>,
    interval: Option<[f64; 2]>,
    /// The interval of the prediction's mean minus this one.
    behind: Option<[f64; 2]>,
    null: usize,
    nan: usize,
}

/// The predictors of one board, or of all together.
pub fn predictors(boards: &[&Board]) -> String {
    let columns: Vec<Shown> = match boards {
        [] => return String::new(),
        [board] => board.rows.iter().map(|row| of_row(row, board.report.perturbations.len() > 1)).collect(),
        boards => over_all(boards),
    };
    let beside = columns.len() > 1;
    let intervals = columns.iter().flat_map(|column| &column.cells).any(|cell| cell.interval.is_some());
    let mut said = Vec::new();
    if columns.iter().filter(|column| column.name != CEILING).count() > 1 {
        said.push("<b class=\"best\">Bold</b>: the best of prediction and baselines.");
    }
    if intervals && beside {
        said.push(
            "\u{2248}: not told apart from the prediction, 95 % of the resampled differences include 0.",
        );
    }
    if boards.len() > 1 {
        said.push("Means over all perturbations of all cell types.");
    }
    if beside {
        said.push(
            "Lines: dot prediction, ticks baselines, diamond ceiling (half of the real cells against the other); better is right.",
        );
    }
    let said =
        if said.is_empty() { String::new() } else { format!("<p class=\"said\">{}</p>\n", said.join(" ")) };
    format!("<h3>Scores</h3>\n{said}{}", table("Scores", boards[0], &columns, beside))
}

/// The prediction of each board beside each other.
pub fn cell_types(boards: &[&Board]) -> String {
    let column = |board: &&Board| Shown {
        name: board.cell_type.clone().unwrap_or_default(),
        cells: of_row(&board.rows[0], false).cells,
    };
    let columns: Vec<Shown> = boards.iter().map(column).collect();
    let table = boards
        .first()
        .map_or(String::new(), |first| table("Prediction by cell type", first, &columns, false));
    format!("<h3>Prediction by cell type</h3>\n{table}")
}

/// Resamplings of a single perturbation are all alike: it has no `intervals`.
fn of_row(row: &Row, intervals: bool) -> Shown {
    let cell = |(i, column): (usize, &Column)| {
        let summary = column.summary();
        let finite =
            |of: &[[f64; 2]]| of.get(i).copied().filter(|of| intervals && of.iter().all(|x| x.is_finite()));
        Cell {
            mean: summary.mean_of_numbers,
            interval: finite(&row.intervals),
            behind: finite(&row.behind),
            null: summary.null,
            nan: summary.nan,
        }
    };
    Shown { name: row.name.clone(), cells: row.columns.iter().enumerate().map(cell).collect() }
}

fn over_all(boards: &[&Board]) -> Vec<Shown> {
    let all: Vec<Board> = boards.iter().map(|&board| board.clone()).collect();
    let sum = |row: &str, i: usize, of: fn(&Cell) -> usize| -> usize {
        let rows = boards.iter().filter_map(|board| board.rows.iter().find(|r| r.name == row));
        rows.map(|row| of_row(row, false).cells.get(i).map_or(0, of)).sum()
    };
    let column = |(name, scores): (String, Vec<(String, f64)>)| {
        let cell = |(i, (_, score)): (usize, &(String, f64))| Cell {
            mean: Some(*score).filter(|x| !x.is_nan()),
            null: sum(&name, i, |cell| cell.null),
            nan: sum(&name, i, |cell| cell.nan),
            ..Cell::default()
        };
        Shown { cells: scores.iter().enumerate().map(cell).collect(), name }
    };
    pooled(&all).into_iter().map(column).collect()
}

fn table(caption: &str, board: &Board, columns: &[Shown], beside: bool) -> String {
    let head = |column: &Shown| format!("<th scope=\"col\">{}</th>", escape(&column.name));
    let heads: String = columns.iter().map(head).collect();
    let strip = if beside { "<th scope=\"col\" class=\"line\">worse \u{2192} better</th>" } else { "" };
    let gaps: Vec<String> = (0..board.report.columns.len()).map(|i| gaps(columns, i)).collect();
    let complete = gaps.iter().all(String::is_empty);
    let left_out = if complete { "" } else { "<th scope=\"col\" class=\"gaps\">Left out</th>" };
    let width = columns.len() + 1 + usize::from(beside) + usize::from(!complete);
    let mut rows = String::new();
    let mut group = None;
    for (i, measured) in board.report.columns.iter().enumerate() {
        let metric = metric_of(&measured.name);
        let de = metric.is_some_and(|metric| metric.de);
        if group != Some(de) {
            group = Some(de);
            let words = if de { "Significant genes" } else { "Profiles and cells" };
            rows += &format!(
                "<tr class=\"group\"><th scope=\"rowgroup\" colspan=\"{width}\"><span>{words}</span></th></tr>\n"
            );
        }
        let cells = row(&measured.name, metric, i, columns, beside);
        let gap = if complete { String::new() } else { format!("<td class=\"gaps\">{}</td>", gaps[i]) };
        rows += &format!("<tr>{cells}{gap}</tr>\n");
    }
    let narrow = if beside { "" } else { " narrow" };
    format!(
        "<div class=\"scroll{narrow}\" role=\"region\" aria-label=\"{caption}\" tabindex=\"0\"><table>\n<thead><tr><th scope=\"col\">Measure</th>\
         {strip}{heads}{left_out}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table></div>\n"
    )
}

fn row(name: &str, metric: Option<&Metric>, i: usize, columns: &[Shown], beside: bool) -> String {
    let goal = metric.and_then(|metric| metric.best);
    let broken = escape(name).replace('_', "_<wbr>");
    let title = match metric.map_or("", |metric| metric.paper) {
        "" => broken,
        paper => format!("{} <small>{broken}</small>", escape(paper)),
    };
    let distance = |cell: &Cell| Some((cell.mean? - goal?).abs());
    let rivals = columns.iter().filter(|column| column.name != CEILING);
    let best = rivals.clone().filter_map(|column| distance(&column.cells[i])).reduce(f64::min);
    // Alone, or as good as all others, nothing is best; cell types are no rivals.
    let worst = rivals.clone().filter_map(|column| distance(&column.cells[i])).reduce(f64::max);
    let contest = beside && best < worst;
    let decimals = decimals(i, goal, columns);
    let cell = |column: &Shown| {
        let cell = &column.cells[i];
        let wins = contest && column.name != CEILING && best.is_some() && distance(cell) == best;
        format!(
            "<td{}>{}</td>",
            if wins { " class=\"best\"" } else { "" },
            cell.html(column.name == PREDICTION, goal.is_some(), decimals)
        )
    };
    let cells: String = columns.iter().map(cell).collect();
    let strip =
        if beside { format!("<td class=\"line\">{}</td>", strip(i, goal, columns)) } else { String::new() };
    format!("<th scope=\"row\">{title}</th>{strip}{cells}")
}

fn strip(i: usize, goal: Option<f64>, columns: &[Shown]) -> String {
    // A count has no better side.
    let Some(goal) = goal else { return String::new() };
    let mean = |column: &Shown| column.cells[i].mean;
    let named = |name: &str| columns.iter().find(|column| column.name == name);
    let others = columns.iter().filter(|column| ![PREDICTION, CEILING].contains(&column.name.as_str()));
    let strip = Strip {
        prediction: named(PREDICTION).and_then(mean).unwrap_or(f64::NAN),
        interval: named(PREDICTION).and_then(|column| column.cells[i].interval),
        baselines: &others.filter_map(mean).collect::<Vec<_>>(),
        ceiling: named(CEILING).and_then(mean),
        falling: goal == 0.0,
    };
    strip.draw()
}

impl Cell {
    fn html(&self, prediction: bool, judged: bool, decimals: usize) -> String {
        let number = |x: f64| number(x, decimals);
        let Some(mean) = self.mean else { return "<span class=\"none\">\u{2013}</span>".to_string() };
        let mean = number(mean);
        if let Some([low, high]) = self.interval.filter(|_| prediction) {
            return format!("{mean}<small>{} to {}</small>", number(low), number(high));
        }
        let Some([low, high]) = self.behind else { return mean };
        let same = if judged && low <= 0.0 && high >= 0.0 { "\u{2248}\u{a0}" } else { "" };
        format!(
            "<span title=\"prediction minus this: {} to {}\">{same}{mean}</span>",
            number(low),
            number(high)
        )
    }
}

/// What row `i` leaves out: once, where it is the same for all columns.
fn gaps(columns: &[Shown], i: usize) -> String {
    let gap = |column: &Shown| {
        let cell = &column.cells[i];
        let counts = [(cell.null, "null"), (cell.nan, "NaN")];
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
            true => format!("{kind}, not in {}", without.join(", ")),
            false => format!("{kind} in {}", with.join(", ")),
        });
    }
    escape(&said.join("; "))
}

/// Decimals of a row: three of shares and correlations; of errors, whose smallest is the best, enough to tell them apart; of counts
/// none, or one where they are small.
fn decimals(i: usize, goal: Option<f64>, columns: &[Shown]) -> usize {
    let largest =
        columns.iter().filter_map(|column| column.cells[i].mean).fold(0.0, |most, x| x.abs().max(most));
    match goal {
        None => usize::from(largest < 100.0),
        Some(0.0) if largest >= 100.0 => 1,
        Some(0.0) if largest >= 0.05 || largest == 0.0 => 4,
        Some(0.0) if largest >= 0.005 => 5,
        Some(0.0) => 6,
        Some(_) => 3,
    }
}

fn number(x: f64, decimals: usize) -> String {
    let text = match decimals {
        0 => thousands(x.round() as i64),
        _ => format!("{x:.decimals$}"),
    };
    // What is rounded to zero has no sign.
    let zero = !text.contains(|c: char| ('1'..='9').contains(&c));
    text.replacen('-', if zero { "" } else { "\u{2212}" }, 1)
}
