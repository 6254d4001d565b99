//! The recorded runs of cell-eval 0.6.6.

use std::path::{Path, PathBuf};

use scale_engine::evaluate::files::{evaluate_files, fingerprints};
use scale_engine::evaluate::lognorm::Held;
use scale_engine::evaluate::registry::ABSENT;
use scale_engine::evaluate::{Report, Settings};

use super::files;
use crate::shared::shared;

const FIXTURES: [&str; 2] = ["fixtures/cell-eval/public", "fixtures/cell-eval/counts-mini"];

/// Evaluates a fixture and writes its files to a temporary folder.
fn run(dir: &Path) -> (Report, tempfile::TempDir) {
    let board = evaluate_files(&files(dir), [], &Settings::default()).expect("a fixture").remove(0);
    let out = tempfile::tempdir().expect("a temporary folder");
    board.write(out.path(), &fingerprints(&files(dir)).expect("files")).expect("written");
    (board.report, out)
}

fn rows(path: PathBuf) -> Vec<Vec<String>> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_path(&path).expect("a csv file");
    reader.records().map(|row| row.expect("a row").iter().map(String::from).collect()).collect()
}

/// Whether a field is as expected: texts equal, empty for empty, NaN for NaN, numbers within the tolerance.
fn agrees(found: &str, expected: &str, relative: f64, absolute: f64) -> bool {
    match (found.parse::<f64>(), expected.parse::<f64>()) {
        (Ok(a), Ok(b)) if a.is_nan() || b.is_nan() => a.is_nan() && b.is_nan(),
        (Ok(a), Ok(b)) => (a - b).abs() <= absolute.max(relative * b.abs()),
        _ => found == expected,
    }
}

/// Means of logs agree bit for bit before expm1; our expm1 is rounded correctly, numpy's on a machine with AVX-512 is not (and
/// differently so elsewhere), which moves a mean by up to this.
const MEAN: f64 = 2e-7;
/// The quotient of two such means: two units in the last place of f32.
const EXPM1: f64 = 1.0 / (1 << 22) as f64;

/// Genes of counts-mini in which two cells' scaled counts differ in the last bit (3 of 300 against 1 of 100 counts): whether
/// they tie is decided by the rounding of log1p, in which numpy's AVX-512 code and the C library differ.
const DECIDED_BY_LOG1P: [(&str, &str); 2] = [("real_de.csv", "GENE0059"), ("pred_de.csv", "GENE0036")];

/// Relative tolerances of the columns of a table; texts and U are exact. p and fdr inherit the last bits of two libraries'
/// erfc, and erfc multiplies its argument's error by up to its square.
const DE_COLUMNS: [(&str, f64); 10] = [
    ("target", 0.0),
    ("reference", 0.0),
    ("feature", 0.0),
    ("target_mean", MEAN),
    ("reference_mean", MEAN),
    ("percent_change", 0.0),
    ("fold_change", EXPM1),
    ("p_value", 1e-9),
    ("statistic", 0.0),
    ("fdr", 1e-9),
];

#[test]
fn tables_of_differential_expression_are_those_of_cell_eval() {
    for dir in FIXTURES.iter().filter_map(|dir| shared(dir)) {
        let (report, out) = run(&dir);
        // Converted counts bring the rounding of their logs into the means.
        let counts = report.sides[0].held == Held::Counts;
        for name in ["real_de.csv", "pred_de.csv"] {
            let (found, expected) = (rows(out.path().join(name)), rows(dir.join(name)));
            assert_eq!(found[0], expected[0], "{name}: columns");
            assert_eq!(found.len(), expected.len(), "{name}: rows");
            for (found, expected) in found.iter().zip(&expected).skip(1) {
                compare_row(name, found, expected, counts);
            }
        }
    }
}

/// The f32 that a text stands for, with all its digits: the shortest that tell it from its neighbours may be off by half a unit.
fn single(text: &str) -> String {
    text.parse::<f32>().map_or(text.to_string(), |x| f64::from(x).to_string())
}

fn compare_row(name: &str, found: &[String], expected: &[String], counts: bool) {
    let tie = counts && DECIDED_BY_LOG1P.contains(&(name, &expected[2]));
    let fold: f64 = expected[6].parse().expect("a number");
    for (i, (header, relative)) in DE_COLUMNS.iter().enumerate() {
        let (relative, absolute) = match *header {
            // A change is a fold change minus one, in f32: its error is the fold change's, however small the change.
            "percent_change" => (0.0, 4.0 * EXPM1 * fold.max(1.0)),
            "statistic" if tie => (0.0, 0.5),
            "p_value" | "fdr" if tie => (2e-3, 0.0),
            "target_mean" | "reference_mean" | "fold_change" if counts => (2.0 * relative, 0.0),
            _ => (*relative, 0.0),
        };
        let (a, b) = match *header {
            "target_mean" | "reference_mean" => (&single(&found[i]), &single(&expected[i])),
            _ => (&found[i], &expected[i]),
        };
        assert!(
            agrees(a, b, relative, absolute),
            "{name} {} {} {header}: {a}, not {b}",
            expected[0],
            expected[2]
        );
    }
}

/// `cargo test --release -- every_column --nocapture` prints the largest difference in each column.
#[test]
fn every_column_of_the_results_is_that_of_cell_eval() {
    for dir in FIXTURES.iter().filter_map(|dir| shared(dir)) {
        let (_, out) = run(&dir);
        println!("{}", dir.display());
        for name in ["results.csv", "agg_results.csv"] {
            let (found, expected) = (rows(out.path().join(name)), rows(dir.join(name)));
            let columns: Vec<&String> = expected[0].iter().filter(|column| **column != ABSENT).collect();
            assert_eq!(found[0].iter().collect::<Vec<_>>(), columns, "{name}: columns");
            assert_eq!(found.len(), expected.len(), "{name}: rows");
            let mut largest = vec![0.0f64; found[0].len()];
            for (found_row, expected_row) in found.iter().zip(&expected).skip(1) {
                assert_eq!(found_row[0], expected_row[0], "{name}: order of rows");
                for (i, column) in found[0].iter().enumerate().skip(1) {
                    let j = expected[0].iter().position(|c| c == column).expect("a column of the fixture");
                    let (a, b) = (&found_row[i], &expected_row[j]);
                    // cell-eval's profiles are f32, everything else f64; sums differ in their order.
                    let f32_in_theirs = ["pearson_delta", "mse", "mae", "mse_delta", "mae_delta"];
                    let absolute = match column.as_str() {
                        "pearson_edistance" => 1e-6, // products of cells in f32
                        name if f32_in_theirs.contains(&name) => 1e-5,
                        _ => 1e-12,
                    };
                    assert!(agrees(a, b, 0.0, absolute), "{name} {} {column}: {a}, not {b}", found_row[0]);
                    let apart = (a.parse().unwrap_or(0.0) - b.parse().unwrap_or(0.0f64)).abs();
                    largest[i] = largest[i].max(apart);
                }
            }
            found[0].iter().zip(&largest).skip(1).for_each(|(c, d)| println!("{name:15} {c:35} {d:.1e}"));
        }
    }
}
