//! What a prediction's scores are compared with: energy distances of cells, the ceiling, intervals, baselines.

use scale_engine::data::h5ad::Cells;
use scale_engine::evaluate::board::{Board, CEILING, PREDICTION};
use scale_engine::evaluate::bootstrap::Draws;
use scale_engine::evaluate::edistance::edistances;
use scale_engine::evaluate::lognorm::log_normalised;
use scale_engine::evaluate::page;
use scale_engine::evaluate::registry::EDISTANCE;
use scale_engine::evaluate::scores::{cell_types, predictors};
use scale_engine::evaluate::side::{Groups, Matrix, Rows, Side};
use scale_engine::evaluate::table::Column;
use scale_engine::evaluate::{Rules, Settings};
use scale_engine::rng::Rng;
use serde_json::Value;

use super::{settings, simulated, sparse};

/// Mean Euclidean distance between cells of two groups, pair by pair in f64.
fn mean_distance(side: &Side, groups: &Groups, a: usize, b: usize) -> f64 {
    let genes = side.genes.len();
    let row = |cell: &u32| &side.x.values()[*cell as usize * genes..][..genes];
    let between = |x: &[f32], y: &[f32]| {
        x.iter().zip(y).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum::<f64>().sqrt()
    };
    let pairs = groups.group(a).iter().flat_map(|x| groups.group(b).iter().map(move |y| (x, y)));
    let (sum, count) = pairs.fold((0.0, 0), |(sum, n), (x, y)| (sum + between(row(x), row(y)), n + 1));
    sum / f64::from(count)
}

#[test]
fn energy_distances_are_those_of_every_pair_of_cells() {
    // Sizes around the blocks of 512 cells; P003's cells are all alike.
    let mut side = simulated(&[530, 1, 520, 40], 33, 0.6, 0, 4);
    let alike = side.labels.names.iter().position(|name| name == "P003").expect("P003") as i32;
    let codes = side.labels.codes.clone();
    for (row, _) in side.x.values_mut().chunks_mut(33).zip(&codes).filter(|(_, code)| **code == alike) {
        row.iter_mut().enumerate().for_each(|(gene, x)| *x = gene as f32 * 0.1);
    }
    let groups = Groups::of(&side, "ctrl").expect("a control");
    let distance = |a, b| mean_distance(&side, &groups, a, b);
    assert_eq!(distance(3, 3), 0.0);
    let few = sparse(&side, false).x;
    // So many genes, most of them zero in every cell, that the control cells are made dense in two panels.
    let Matrix::Sparse(x) = &few else { panic!("a sparse matrix") };
    let starts = x.indptr().to_owned().into_raw_storage();
    let wide = Cells::new((x.rows(), 20_000), starts.to_vec(), x.indices().to_vec(), x.data().to_vec());
    for x in [&side.x, &few, &Matrix::Sparse(wide)] {
        let found = edistances(Rows::of(x, &groups));
        for (p, found) in found.into_iter().enumerate() {
            let expected = 2.0 * distance(p + 1, 0) - distance(p + 1, p + 1) - distance(0, 0);
            assert!((found - expected).abs() < 1e-6 * distance(0, 0), "{p}: {found}, not {expected}");
        }
    }
}

#[test]
fn one_profile_for_all_perturbations_has_one_energy_distance() {
    let mut side = simulated(&[530, 7, 3, 41], 33, 0.6, 0, 4);
    let (names, codes) = (side.labels.names.clone(), side.labels.codes.clone());
    let perturbed = |code: &i32| names[*code as usize].starts_with('P');
    for (row, _) in side.x.values_mut().chunks_mut(33).zip(&codes).filter(|(_, code)| perturbed(code)) {
        row.iter_mut().enumerate().for_each(|(gene, x)| *x = (gene as f32 * 0.37).sin().abs());
    }
    let groups = Groups::of(&side, "ctrl").expect("a control");
    let found = edistances(Rows::of(&side.x, &groups));
    assert!(found.len() > 1 && found[0] > 0.0 && found.iter().all(|e| *e == found[0]), "{found:?}");
}

/// Cells whose perturbations have effects of rising strength.
fn effects(sizes: &[usize], seed: u64) -> Side {
    let mut side = simulated(sizes, 40, 0.3, 0, seed);
    let codes = side.labels.codes.clone();
    let names = side.labels.names.clone();
    for (row, code) in side.x.values_mut().chunks_mut(40).zip(codes) {
        if let Some(p) = names[code as usize].strip_prefix('P') {
            let p: usize = p.parse().expect("a number");
            row[p..p + 12].iter_mut().for_each(|x| *x += 0.6 + 0.1 * p as f32);
        }
    }
    side
}

#[test]
fn the_ceiling_is_near_one_and_leaves_out_what_cannot_be_halved() {
    let real = effects(&[200, 120, 90, 1, 101], 1);
    let pred = simulated(&[200, 120, 90, 1, 101], 40, 0.3, 0, 9);
    for rules in Rules::ALL {
        let settings = Settings { ceiling: true, rules, ..settings() };
        let board = Board::of(None, &real, &pred, &[], &settings).expect("a board");
        assert_eq!(board.rows.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(), [PREDICTION, CEILING]);
        let column = |row: usize| {
            board.rows[row].columns.iter().find(|column| column.name == "pearson_delta").expect("a column")
        };
        let values = &column(1).values;
        assert_eq!(values[2], None, "a single cell has no halves");
        assert!([0, 1, 3].iter().all(|&p| values[p] > Some(0.85)), "{values:?}");
        assert!(column(0).values[0] < Some(0.5));
        let again = Board::of(None, &real, &pred, &[], &settings).expect("a board");
        assert_eq!(again.rows[1].columns[0].values, board.rows[1].columns[0].values);
    }
    let single = effects(&[200, 1, 1], 1);
    let settings = Settings { ceiling: true, ..settings() };
    assert_eq!(Board::of(None, &single, &single, &[], &settings).expect("a board").rows.len(), 1);
}

/// One perturbation's cells have a quarter of the others' counts, so that the medians of the halves would differ.
#[test]
fn the_ceiling_of_counts_is_that_of_their_logs() {
    let mut counts = effects(&[21, 6, 5, 4], 1);
    let codes = counts.labels.codes.clone();
    for (i, (row, code)) in counts.x.values_mut().chunks_mut(40).zip(codes).enumerate() {
        let depth = if code == 1 { 2.0 } else { 5.0 + (i * i % 7) as f32 };
        row.iter_mut().for_each(|x| *x = (*x * depth).round());
    }
    let logs = Side { x: log_normalised(&counts, None).expect("counts").x.into_owned(), ..counts.clone() };
    for rules in Rules::ALL {
        let settings = Settings { ceiling: true, rules, ..settings() };
        let [a, b] = [&counts, &logs].map(|side| {
            let board = Board::of(None, side, side, &[], &settings).expect("a board");
            board.rows.into_iter().find(|row| row.name == CEILING).expect("a ceiling").columns
        });
        assert_same(&a, &b, rules);
    }
}

/// The same scores to the bit; NaN is equal to itself.
fn assert_same(a: &[Column], b: &[Column], rules: Rules) {
    assert_eq!(a.len(), b.len(), "{}", rules.name());
    for (a, b) in a.iter().zip(b) {
        let [left, right] = [a, b].map(|column| format!("{:?}", column.values));
        assert_eq!(left, right, "{} by {}", a.name, rules.name());
    }
}

/// Counts of cells of different depths, and their logs at a total over all genes, of which these hold a part.
fn counts_and_logs(total: f32) -> [Side; 2] {
    let mut counts = effects(&[60, 20, 25], 1);
    let mut logs = counts.clone();
    let rows = counts.x.values_mut().chunks_mut(40).zip(logs.x.values_mut().chunks_mut(40));
    for (i, (row, logs)) in rows.enumerate() {
        row.iter_mut().for_each(|x| *x = (*x * (2 + i % 7) as f32).round());
        row[39] = 1.0; // found once in every cell, as some gene is
        let library = row.iter().sum::<f32>() + (i % 5 * 40) as f32;
        logs.iter_mut().zip(row).for_each(|(x, k)| *x = f64::from(*k / (library / total)).ln_1p() as f32);
    }
    [counts, Side { total: Some(f64::from(total)), ..logs }]
}

#[test]
fn baselines_are_brought_to_the_total_of_measured_counts_bit_for_bit() {
    let [counts, logs] = counts_and_logs(1e4);
    for rules in Rules::ALL {
        let settings = Settings { rules, ..settings() };
        for beside in [logs.clone(), sparse(&logs, false)] {
            let others = [("same", &beside)];
            let board = Board::of(None, &counts, &counts, &others, &settings).expect("a board");
            assert_same(&board.rows[0].columns, &board.rows[1].columns, rules);
            let [note] = &board.notes[..] else { panic!("one note: {:?}", board.notes) };
            assert!(note.contains("were brought to the total"), "{note}");
        }
    }
}

#[test]
fn baselines_are_brought_to_the_total_of_measured_logs_or_the_reader_is_told() {
    let [_, real] = counts_and_logs(500.0);
    let [_, other] = counts_and_logs(1e4);
    let mae = |real: &Side, other: &Side| {
        let board = Board::of(None, real, real, &[("other", other)], &settings()).expect("a board");
        let mae = board.rows[1].columns.iter().find(|column| column.name == "mae").expect("a column");
        (mae.values[0].expect("a number"), board.notes.join("\n"))
    };
    let (far, said) = mae(&real, &other);
    assert!(far < 1e-6 && said.contains("were brought to the total"), "recorded: {far} {said}");
    assert_eq!(mae(&real, &real), (0.0, String::new()));
    let untold = Side { total: None, ..real.clone() };
    assert_eq!(mae(&untold, &untold), (0.0, String::new()), "controls that add up to the same");
    let (far, said) = mae(&untold, &other);
    assert!(far > 0.1 && said.contains("could not be compared with that of the baselines: other"), "{said}");
    let stale = Side { total: Some(1e4), ..real.clone() };
    assert_eq!(mae(&stale, &other), (far, said.clone()), "a record that the values contradict");
    assert!(said.contains("the mean value of"), "no note of a baseline is lost: {said}");
    // Cells that show a total over these very genes.
    let mut whole = untold;
    for row in whole.x.values_mut().chunks_mut(40) {
        let sum: f32 = row.iter().map(|x| x.exp_m1()).sum();
        row.iter_mut().for_each(|x| *x = (x.exp_m1() / sum * 800.0).ln_1p());
    }
    let (far, said) = mae(&whole, &other);
    assert!(far < 1e-6 && said.contains("were brought to the total"), "shown: {far} {said}");
}

#[test]
fn intervals_are_as_wide_as_the_theory_of_means_has_them() {
    let rng = Rng::new(5);
    let count = 400u64;
    let value = |i: u64| if i.is_multiple_of(10) { None } else { Some(f64::from(rng.uniform(i))) };
    let column = Column::new("mae", (0..count).map(value).collect(), true);
    let summary = column.summary();
    let draws = Draws::new(2000, count as usize);
    let [low, high] = draws.intervals(&[(&column, None)])[0];
    let half = 1.96 * summary.std.expect("a spread") / (summary.count as f64).sqrt();
    let mean = summary.mean.expect("a mean");
    assert!(((mean - low) / half - 1.0).abs() < 0.12 && ((high - mean) / half - 1.0).abs() < 0.12);
    // The same draws for both: a constant difference has no width.
    let more = Column::new("mae", (0..count).map(|i| value(i).map(|v| v + 0.25)).collect(), true);
    let difference = draws.intervals(&[(&more, Some(&column))])[0];
    assert!(difference.iter().all(|d| (d - 0.25).abs() < 1e-12), "{difference:?}");
    let nothing = Column::new("mae", vec![None; count as usize], true);
    assert!(draws.intervals(&[(&nothing, None)])[0].iter().all(|bound| bound.is_nan()));
    let one = Column::new("mae", (0..count).map(|i| (i == 3).then_some(0.5)).collect(), true);
    assert!(
        draws.intervals(&[(&one, None)])[0].iter().all(|bound| bound.is_nan()),
        "one number has no spread"
    );
}

/// As scanpy does: it sees the zeros of a dense matrix.
#[test]
fn empty_cells_count_in_the_median_total_of_a_sparse_matrix_alone() {
    let mut side = simulated(&[3, 2], 2, 1.0, 1, 1);
    side.x.values_mut().chunks_mut(2).zip([0.0, 0.0, 4.0, 6.0, 8.0]).for_each(|(row, count)| row[0] = count);
    let total = |side: &Side| log_normalised(side, None).expect("counts").total;
    assert_eq!((total(&side), total(&sparse(&side, false))), (Some(6.0), Some(4.0)));
}

#[test]
fn a_board_holds_every_predictor_scored_alike() {
    let real = effects(&[100, 60, 50, 40, 30, 45, 55], 1);
    let pred = effects(&[100, 60, 50, 40, 30, 45, 55], 2);
    let none = simulated(&[100, 60, 50, 40, 30, 45, 55], 40, 0.3, 0, 3);
    let settings = Settings { bootstrap: 200, ..settings() };
    let beside = [("none", &none), ("same", &pred)];
    let board = Board::of(None, &real, &pred, &beside, &settings).expect("a board");
    let [prediction, baseline, same] = &board.rows[..] else { panic!("three rows") };
    for (i, column) in prediction.columns.iter().enumerate() {
        assert_eq!(column.values, same.columns[i].values, "{}", column.name);
        assert!(same.behind[i].iter().all(|d| *d == 0.0 || d.is_nan()), "{}", column.name);
    }
    let at = prediction.columns.iter().position(|column| column.name == "pearson_delta").expect("a column");
    assert!(baseline.behind[at][0] > 0.0, "the prediction is surely better: {:?}", baseline.behind[at]);
    // Energy distances are correlated again for each draw of perturbations.
    let at =
        prediction.columns.iter().position(|column| column.name == "pearson_edistance").expect("a column");
    assert!(prediction.intervals[at][0] < prediction.columns[at].values[0].expect("a number"));
    let json = board.json();
    assert!(json["metrics"]["mae"]["interval"].is_array());
    assert!(json["beside"]["none"]["mae"]["prediction_minus_this"].is_array());
    assert_eq!(json["controls"], "each side's own control cells");
    let table = predictors(&[board]);
    assert_eq!(table.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(), [PREDICTION, "none", "same"]);
}

#[test]
fn a_name_stands_for_one_row_of_a_board() {
    let [real, pred] = [1, 2].map(|seed| effects(&[20, 10, 10], seed));
    for beside in [&[(PREDICTION, &pred)][..], &[(CEILING, &pred)], &[("mean", &pred), ("mean", &pred)]] {
        let told =
            Board::of(None, &real, &pred, beside, &settings()).expect_err("a name of two rows").to_string();
        assert!(told.starts_with("beside: ") && told.contains("is the name of another row"), "{told}");
    }
}

/// cell-eval has no correlation of energy distances for one perturbation: its board, and a ceiling of one, have one column fewer.
#[test]
fn boards_and_ceilings_that_lack_a_measure_stand_beside_others() {
    let settings = Settings { ceiling: true, ..settings() };
    let board = |name: &str, sizes: &[usize]| {
        Board::of(Some(name.into()), &effects(sizes, 1), &effects(sizes, 2), &[], &settings).expect("a board")
    };
    let (two, one) = (board("two", &[60, 20, 1]), board("one", &[60, 20]));
    assert!(two.report.column(EDISTANCE).is_some() && one.report.column(EDISTANCE).is_none());
    let measures = two.report.columns.len();
    for boards in [vec![two.clone()], vec![two.clone(), one.clone()], vec![one, two]] {
        for column in [predictors(&boards), cell_types(&boards)].concat() {
            assert_eq!(column.scores.len(), measures, "{}", column.name);
            let has = [PREDICTION, "two"].contains(&column.name.as_str());
            assert_eq!(column.mean(EDISTANCE).is_some(), has, "{}", column.name);
        }
        assert!(page::html(&boards, &Value::Null).contains("</html>"));
    }
}
