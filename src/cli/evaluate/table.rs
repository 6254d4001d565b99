//! The printed table: a row per measure; a column per predictor, or per cell type if the prediction is compared with nothing.

use crate::error::counted;
use crate::evaluate::board::{Board, PREDICTION, title};
use crate::evaluate::registry::metric_of;
use crate::evaluate::scores::{self, Scores, cell_types, predictors};

/// Prints means over perturbations.
pub fn print(boards: &[Board]) {
    let [first, ..] = boards else { return };
    for board in boards {
        let name = board.cell_type.as_ref().map_or(String::new(), |name| format!("{name}: "));
        println!(
            "{name}{}, {} genes",
            counted(board.report.perturbations.len(), "perturbation"),
            board.report.genes.len()
        );
    }
    let rules = first.report.settings.rules;
    println!("rules {}; controls: {}\n", rules.name(), rules.definitions().controls.words());
    let by_type = boards.len() > 1 && boards.iter().all(|board| board.rows.len() == 1);
    of_columns(&if by_type { cell_types(boards) } else { predictors(boards) });
    println!(
        "\nMeans leave out null (nothing to measure) and NaN (undefined); in agg_results.csv any NaN makes the mean NaN."
    );
    if boards.len() > 1 && !by_type {
        println!(
            "Means are over all perturbations of all cell types; each cell type's results.json has its own means."
        );
    }
    if boards.len() == 1 && !first.rows[0].intervals.is_empty() {
        println!(
            "[low, high]: 95 % interval of the mean, found by resampling the perturbations; results.json has the intervals of the other columns and of the differences."
        );
    }
}

fn of_columns(columns: &[Scores]) {
    let cells: Vec<Vec<String>> = columns.iter().map(cells).collect();
    let width = |(column, cells): (&Scores, &Vec<String>)| {
        cells.iter().chain([&column.name]).map(|cell| cell.chars().count()).max().unwrap_or(0).max(10)
    };
    let widths: Vec<usize> = columns.iter().zip(&cells).map(width).collect();
    print!("{:44}", "");
    columns.iter().zip(&widths).for_each(|(column, width)| print!("  {:>width$}", column.name));
    println!("   best");
    for (i, score) in columns[0].scores.iter().enumerate() {
        print!("{:44}", title(&score.measure));
        cells.iter().zip(&widths).for_each(|(cells, width)| print!("  {:>width$}", cells[i]));
        let best = metric_of(&score.measure).and_then(|metric| metric.best);
        let best = best.map_or(String::new(), |best| format!("{best:.0}"));
        println!("   {best:4}  {}", scores::left_out(columns, i));
    }
}

fn cells(column: &Scores) -> Vec<String> {
    let mut cells = Vec::new();
    for score in &column.scores {
        let mean = score.mean.map_or("-".to_string(), |mean| format!("{mean:.4}"));
        // Intervals of the others would double the width; they are in results.json.
        cells.push(match score.interval.filter(|_| column.name == PREDICTION) {
            Some([low, high]) => format!("{mean} [{low:.3}, {high:.3}]"),
            None => mean,
        });
    }
    cells
}
