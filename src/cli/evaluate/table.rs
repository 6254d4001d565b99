//! The printed table: a row a measure; a column a predictor, or a cell type where there is nothing beside the prediction.

use crate::evaluate::board::{Board, Row, pooled, title};
use crate::evaluate::registry::metric_of;
use crate::evaluate::table::Column;

/// Prints means over perturbations.
pub fn print(boards: &[Board]) {
    let [first, ..] = boards else { return };
    for board in boards {
        let name = board.cell_type.as_ref().map_or(String::new(), |name| format!("{name}: "));
        println!(
            "{name}{} perturbations, {} genes",
            board.report.perturbations.len(),
            board.report.genes.len()
        );
    }
    let rules = first.report.settings.rules;
    println!("rules {}; controls: {}\n", rules.name(), rules.definitions().controls.words());
    match boards {
        [board] => {
            // Intervals of the others would double the width; results.json has them.
            let beside = board.rows[1..].iter().map(|row| column_of(row, false));
            let all = std::iter::once(column_of(&board.rows[0], true)).chain(beside);
            of_columns(first, &all.collect::<Vec<_>>());
        }
        _ if first.rows.len() > 1 => of_columns(first, &over_all(boards)),
        _ => of_columns(first, &boards.iter().map(column_of_type).collect::<Vec<_>>()),
    }
    println!(
        "\nMeans leave out null (nothing to measure) and NaN (undefined); in agg_results.csv a NaN makes the mean NaN."
    );
    if boards.len() > 1 && first.rows.len() > 1 {
        println!("Means over all perturbations of all cell types; results.json of each has its own.");
    }
    if boards.len() == 1 && !first.rows[0].intervals.is_empty() {
        println!(
            "[95 % of the means of resampled perturbations]; results.json has those of the other columns and of the differences."
        );
    }
}

/// A column of the table: its head, and a cell and what it leaves out for each measure.
struct Printed {
    head: String,
    cells: Vec<String>,
    gaps: Vec<String>,
}

fn column_of(row: &Row, intervals: bool) -> Printed {
    let cell = |(i, column): (usize, &Column)| {
        let mean = column.summary().mean_of_numbers.map_or("-".to_string(), |mean| format!("{mean:.4}"));
        match row.intervals.get(i) {
            Some([low, high]) if intervals && low.is_finite() => format!("{mean} [{low:.3}, {high:.3}]"),
            _ => mean,
        }
    };
    let gap = |column: &Column| {
        let summary = column.summary();
        let counts = [(summary.null, "null"), (summary.nan, "NaN")];
        let said = counts.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}"));
        said.collect::<Vec<_>>().join(", ")
    };
    Printed {
        head: row.name.clone(),
        cells: row.columns.iter().enumerate().map(cell).collect(),
        gaps: row.columns.iter().map(gap).collect(),
    }
}

fn column_of_type(board: &Board) -> Printed {
    Printed { head: board.cell_type.clone().unwrap_or_default(), ..column_of(&board.rows[0], false) }
}

fn over_all(boards: &[Board]) -> Vec<Printed> {
    let column = |(name, scores): (String, Vec<(String, f64)>)| Printed {
        head: name,
        gaps: vec![String::new(); scores.len()],
        cells: scores
            .into_iter()
            .map(|(_, score)| if score.is_nan() { "-".to_string() } else { format!("{score:.4}") })
            .collect(),
    };
    pooled(boards).into_iter().map(column).collect()
}

fn of_columns(board: &Board, columns: &[Printed]) {
    let width = |column: &Printed| {
        column.cells.iter().chain([&column.head]).map(|cell| cell.chars().count()).max().unwrap_or(0).max(10)
    };
    let widths: Vec<usize> = columns.iter().map(width).collect();
    print!("{:44}", "");
    columns.iter().zip(&widths).for_each(|(column, width)| print!("  {:>width$}", column.head));
    println!("   best");
    for (i, measured) in board.report.columns.iter().enumerate() {
        print!("{:44}", title(&measured.name));
        columns.iter().zip(&widths).for_each(|(column, width)| print!("  {:>width$}", column.cells[i]));
        let best = metric_of(&measured.name).and_then(|metric| metric.best);
        let best = best.map_or(String::new(), |best| format!("{best:.0}"));
        println!("   {best:4}  {}", gaps(columns, i));
    }
}

/// What row `i` leaves out: once, where it is the same for all columns.
fn gaps(columns: &[Printed], i: usize) -> String {
    let first = &columns[0].gaps[i];
    if columns.iter().all(|column| column.gaps[i] == *first) {
        return first.clone();
    }
    let some = columns.iter().filter(|column| !column.gaps[i].is_empty());
    some.map(|column| format!("{}: {}", column.head, column.gaps[i])).collect::<Vec<_>>().join("; ")
}
