//! cell-eval's numbers, and what evaluation refuses.

mod board;
mod command;
mod page;
mod rules;

use std::path::{Path, PathBuf};

use scale_engine::data::h5ad::{self, Cells, Column, Frame, Labels, X};
use scale_engine::evaluate::de::{Table, benjamini_hochberg};
use scale_engine::evaluate::files::{Files, evaluate_files, fingerprints};
use scale_engine::evaluate::lognorm::Held;
use scale_engine::evaluate::null::Counted;
use scale_engine::evaluate::pseudobulk::Pseudobulk;
use scale_engine::evaluate::registry::{ABSENT, Profile};
use scale_engine::evaluate::side::{Groups, Matrix, Rows, Side};
use scale_engine::evaluate::{Report, Rules, Settings, evaluate, pearson, spearman};
use scale_engine::rng::Rng;

use crate::shared::shared;

// ---- parity with the recorded runs of cell-eval 0.6.6 ----

const FIXTURES: [&str; 2] = ["fixtures/cell-eval/public", "fixtures/cell-eval/counts-mini"];

fn files(dir: &Path) -> Files {
    Files {
        real: dir.join("real.h5ad"),
        pred: dir.join("pred.h5ad"),
        perturbation: "target_gene".to_string(),
        cell_type: None,
    }
}

/// Evaluates a fixture and writes its files to a temporary folder.
fn run(dir: &Path) -> (Report, tempfile::TempDir) {
    let board = evaluate_files(&files(dir), &[], &Settings::default()).expect("a fixture").remove(0);
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

/// Means of logs agree bit for bit before expm1; ours is rounded correctly, numpy's on a machine with AVX-512 is not (and otherwise
/// elsewhere), which moves a mean by up to this.
const MEAN: f64 = 2e-7;
/// The quotient of two such means: two units in the last place of f32.
const EXPM1: f64 = 1.0 / (1 << 22) as f64;

/// Genes of counts-mini in which two cells' scaled counts differ in the last bit (3 of 300 against 1 of 100 counts): whether
/// they tie is decided by the rounding of log1p, where numpy's AVX-512 code and the C library's part.
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

/// The f32 that a text stands for, all its digits: the shortest ones that tell it from its neighbours are off by half a unit.
fn single(text: &str) -> String {
    text.parse::<f32>().map_or(text.to_string(), |x| f64::from(x).to_string())
}

fn compare_row(name: &str, found: &[String], expected: &[String], counts: bool) {
    let tie = counts && DECIDED_BY_LOG1P.contains(&(name, &expected[2]));
    let fold: f64 = expected[6].parse().expect("a number");
    for (i, (header, relative)) in DE_COLUMNS.iter().enumerate() {
        let (relative, absolute) = match *header {
            // A change is a fold change minus one, in f32: its error is the fold change's, whatever is left of it.
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

/// `cargo test --release -- every_column --nocapture` prints the largest difference a column.
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

// ---- simulated sides ----

/// `cells[0]` control cells, then as many as said of each perturbation, the file's order mixed. A value is zero with
/// chance `zeros`, else one of `levels` levels (0: any number).
fn simulated(cells: &[usize], genes: usize, zeros: f32, levels: u64, seed: u64) -> Side {
    let rng = Rng::new(seed);
    let mut labels: Vec<String> = Vec::new();
    for (g, &n) in cells.iter().enumerate() {
        labels.extend(std::iter::repeat_n(if g == 0 { "ctrl".to_string() } else { format!("P{g:03}") }, n));
    }
    rng.at(1).shuffle(&mut labels);
    let value = |i: u64| {
        if rng.at(2).uniform(i) < zeros {
            return 0.0;
        }
        match levels {
            0 => 0.01 + 3.0 * rng.at(3).uniform(i),
            levels => 0.25 + rng.at(4).below(i, levels) as f32 * 0.5,
        }
    };
    let values = (0..(labels.len() * genes) as u64).map(value).collect();
    Side {
        source: PathBuf::from("simulated"),
        x: Matrix::Dense { genes, values },
        labels: Labels::of(&labels),
        genes: (0..genes).map(|g| format!("G{g}")).collect(),
    }
}

/// The same side in CSR; stored zeros stay stored where `keep` is true.
fn sparse(side: &Side, keep: bool) -> Side {
    let (cells, genes) = side.x.shape();
    let (mut starts, mut columns, mut values) = (vec![0], Vec::new(), Vec::new());
    for row in side.x.values().chunks(genes) {
        for (gene, &value) in row.iter().enumerate().filter(|(_, value)| keep || **value != 0.0) {
            columns.push(gene as u32);
            values.push(value);
        }
        starts.push(values.len());
    }
    Side { x: Matrix::Sparse(Cells::new((cells, genes), starts, columns, values)), ..side.clone() }
}

fn table(side: &Side) -> (Table, Groups) {
    let groups = Groups::of(side, "ctrl").expect("a control");
    let table = Table::of(Rows::of(&side.x, &groups), &side.genes, "ctrl", &Rules::default().definitions());
    (table, groups)
}

fn settings() -> Settings {
    Settings { control: "ctrl".to_string(), ..Settings::default() }
}

fn values(side: &Side, cells: &[u32], gene: usize) -> Vec<f32> {
    let genes = side.genes.len();
    cells.iter().map(|&cell| side.x.values()[cell as usize * genes + gene]).collect()
}

/// U by comparing every pair, the ties by counting, p by the textbook; small samples without ties by trying every choice.
fn plain_test(x: &[f32], y: &[f32]) -> (f64, f64) {
    let pairs = x.iter().flat_map(|a| y.iter().map(move |b| (a, b)));
    let u: f64 = pairs.map(|(a, b)| f64::from(a > b) + 0.5 * f64::from(a == b)).sum();
    let (n1, n2) = (x.len() as f64, y.len() as f64);
    let larger = u.max(n1 * n2 - u);
    let mut pooled: Vec<f32> = x.iter().chain(y).copied().collect();
    pooled.sort_by(f32::total_cmp);
    let ties: f64 = pooled.chunk_by(|a, b| a == b).map(|t| (t.len() as f64).powi(3) - t.len() as f64).sum();
    if ties == 0.0 && x.len().min(y.len()) <= 8 {
        return (u, (2.0 * share_of_orders_above(x.len(), y.len(), larger)).min(1.0));
    }
    let n = n1 + n2;
    let variance = n1 * n2 / 12.0 * (n + 1.0 - ties / (n * (n - 1.0)));
    let z = (larger - n1 * n2 / 2.0 - 0.5) / variance.sqrt();
    (u, if variance > 0.0 { libm::erfc(z / 2.0f64.sqrt()).min(1.0) } else { 1.0 })
}

/// Share of the orders of n1 + n2 different values in which U is at least `u`, by the recursion over the largest value.
fn share_of_orders_above(n1: usize, n2: usize, u: f64) -> f64 {
    fn orders(
        n1: usize,
        n2: usize,
        counts: &mut std::collections::HashMap<(usize, usize), Vec<f64>>,
    ) -> Vec<f64> {
        if n1 == 0 || n2 == 0 {
            return vec![1.0];
        }
        if let Some(known) = counts.get(&(n1, n2)) {
            return known.clone();
        }
        let mut all = vec![0.0; n1 * n2 + 1];
        // The largest is an x: it stands above all n2; or a y.
        orders(n1 - 1, n2, counts).iter().enumerate().for_each(|(u, c)| all[u + n2] += c);
        orders(n1, n2 - 1, counts).iter().enumerate().for_each(|(u, c)| all[u] += c);
        counts.insert((n1, n2), all.clone());
        all
    }
    let all = orders(n1, n2, &mut Default::default());
    all[u as usize..].iter().sum::<f64>() / all.iter().sum::<f64>()
}

// ---- rank sums ----

#[test]
fn rank_sums_agree_with_comparing_every_pair() {
    let shapes: [&[usize]; 4] = [&[60, 1, 5, 8, 9, 33], &[8, 40, 3], &[1, 1, 2], &[700, 300, 4]];
    for (seed, cells) in (0..).zip(shapes) {
        for (zeros, levels) in [(0.0, 0), (0.05, 0), (0.7, 0), (0.5, 4), (0.0, 1), (1.0, 1)] {
            let side = simulated(cells, 7, zeros, levels, seed);
            let (table, groups) = table(&side);
            for (t, target) in table.targets.iter().enumerate() {
                let p = groups.perturbations.binary_search(target).expect("a perturbation");
                for gene in 0..7 {
                    let x = values(&side, groups.group(p + 1), gene);
                    let (u, p) = plain_test(&x, &values(&side, groups.group(0), gene));
                    let row = t * 7 + gene;
                    assert_eq!(table.statistic[row], u, "U of {target}, gene {gene}");
                    let found = table.p_value[row];
                    assert!((found - p).abs() <= 1e-12 * p, "p of {target}, gene {gene}: {found}, not {p}");
                }
            }
        }
    }
}

#[test]
fn stored_zeros_are_zeros_and_storage_does_not_matter() {
    let dense = simulated(&[50, 9, 20, 300], 40, 0.6, 0, 5);
    let (expected, groups) = table(&dense);
    let bulk = Pseudobulk::of(Rows::of(&dense.x, &groups));
    for keep in [false, true] {
        let other = sparse(&dense, keep);
        assert_eq!(table(&other).0, expected);
        assert_eq!(Pseudobulk::of(Rows::of(&other.x, &groups)).perturbed, bulk.perturbed);
    }
}

#[test]
fn counted_p_values_are_those_of_scipy() {
    // scipy.stats.mannwhitneyu(method="exact"), 1.16.3: n1, n2, larger U, p.
    let expected = [
        (1, 1, 1.0, 1.0),
        (1, 1, 1.0, 1.0),
        (1, 9, 6.0, 0.8),
        (1, 9, 9.0, 0.2),
        (3, 4, 6.0, 1.0),
        (3, 4, 10.0, 0.22857142857142856),
        (5, 100, 314.0, 0.35002912055911484),
        (5, 100, 420.0, 0.00754499923291731),
        (8, 8, 33.0, 0.959129759129759),
        (8, 8, 44.0, 0.23449883449883446),
        (8, 700, 3634.0, 0.14978369066122255),
        (8, 700, 5470.0, 1.8915952909372399e-10),
        (400, 6, 1216.0, 0.9577622947752603),
        (400, 6, 1331.0, 0.6551822122400041),
        (7, 30, 109.0, 0.8944584570770531),
        (7, 30, 184.0, 0.0011692518808268334),
    ];
    for (n1, n2, u, p) in expected {
        let found = Counted::new(n1, n2).expect("small enough").p(u);
        assert!((found - p).abs() <= 1e-9 * p, "n {n1} {n2} U {u}: {found}, not {p}");
    }
}

#[test]
fn tails_keep_their_digits_down_to_1e_300() {
    // mpmath, 50 digits: P(Z > z).
    let expected = [
        (-3.7, 0.9998922002665226),
        (-0.5, 0.6914624612740131),
        (0.0, 0.5),
        (1e-09, 0.49999999960105773),
        (0.3, 0.3820885778110474),
        (0.8, 0.21185539858339666),
        (1.2, 0.11506967022170828),
        (1.7, 0.04456546275854304),
        (2.5, 0.006209665325776135),
        (5.1, 1.6982674071476014e-07),
        (8.3, 5.205569744890254e-17),
        (14.25, 2.24140623269364e-46),
        (20.0, 2.7536241186062337e-89),
        (27.7, 3.4910784528195237e-169),
        (33.1, 1.4859285199642455e-240),
        (37.05, 8.979362945296521e-301),
    ];
    for (z, p) in expected {
        let found = scale_engine::evaluate::null::upper_tail(z);
        // z / sqrt 2 is rounded; the tail multiplies that error by z^2. scipy's argument is rounded the same way.
        let error = (found / p - 1.0f64).abs();
        assert!(error < f64::EPSILON * (4.0 + z * z), "z {z}: {found:e}, not {p:e}");
    }
}

#[test]
fn false_discovery_rates_rise_with_p_and_are_shared_by_ties() {
    assert_eq!(benjamini_hochberg(&[0.01, 0.04, 0.03, 0.02, 1.0]), [0.05, 0.05, 0.05, 0.05, 1.0]);
    assert_eq!(benjamini_hochberg(&[0.5]), [0.5]);
    assert_eq!(benjamini_hochberg(&[0.2, 0.2, 0.9]), [0.30000000000000004, 0.30000000000000004, 0.9]);
    assert!(benjamini_hochberg(&[]).is_empty());
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let real = simulated(&[900, 50, 7, 3000, 120], 130, 0.5, 0, 1);
    let pred = sparse(&simulated(&[900, 50, 7, 3000, 120], 130, 0.4, 0, 2), false);
    let at = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        let report = pool.install(|| evaluate(&real, &pred, &settings())).expect("a report");
        let bits = |v: &Option<f64>| v.map(f64::to_bits);
        let columns: Vec<Vec<Option<u64>>> =
            report.columns.iter().map(|c| c.values.iter().map(bits).collect()).collect();
        (columns, report.tables)
    };
    let one = at(1);
    for threads in [2, 5] {
        assert_eq!(at(threads), one, "{threads} threads");
    }
}

// ---- what is refused, and what is undefined ----

/// The message of an evaluation that must fail.
fn refused(real: &Side, pred: &Side) -> String {
    evaluate(real, pred, &settings()).expect_err("this must be refused").to_string()
}

fn with_value(side: &Side, i: usize, value: f32) -> Side {
    let mut side = side.clone();
    side.x.values_mut()[i] = value;
    side
}

#[test]
fn values_that_are_no_expression_are_refused_by_cell_and_gene() {
    let good = simulated(&[20, 10], 5, 0.3, 0, 1);
    for (value, word) in [(f32::NAN, "finite"), (f32::INFINITY, "finite"), (-0.5, "negative"), (40.0, "log")]
    {
        let message = refused(&good, &with_value(&good, 12, value));
        assert!(message.contains("cell 2, gene \"G2\"") && message.contains(word), "{message}");
        let message = refused(&sparse(&with_value(&good, 12, value), true), &good);
        assert!(message.contains("cell 2, gene \"G2\""), "{message}");
    }
}

#[test]
fn genes_must_be_the_same_in_the_same_order() {
    let real = simulated(&[20, 10], 5, 0.3, 0, 1);
    let mut pred = real.clone();
    pred.genes.swap(1, 3);
    assert!(refused(&real, &pred).contains("gene 1 is \"G3\" here and \"G1\" there; the same names"));
    pred.genes[1] = "NEW".to_string();
    let message = refused(&real, &pred);
    assert!(message.contains("missing here: \"G3\"") && message.contains("only here: \"NEW\""), "{message}");
    assert!(
        refused(&real, &simulated(&[20, 10], 6, 0.3, 0, 1)).contains("6 here, 5 there; only here: \"G5\"")
    );
    pred.genes[1] = "G0".to_string();
    assert!(refused(&real, &pred).contains("twice here: \"G0\""), "{}", refused(&real, &pred));
}

#[test]
fn labels_must_be_the_same_and_hold_the_control() {
    let real = simulated(&[20, 10, 10], 5, 0.3, 0, 1);
    let less = simulated(&[20, 10], 5, 0.3, 0, 1);
    assert!(refused(&real, &less).contains("only in simulated: \"P002\""));
    let none = simulated(&[0, 10, 10], 5, 0.3, 0, 1);
    assert!(refused(&real, &none).contains("holds no control cells (\"ctrl\")"));
    assert!(refused(&none, &real).contains("--control-pert: simulated: unknown control label \"ctrl\""));
    assert!(refused(&simulated(&[20], 5, 0.3, 0, 1), &real).contains("nothing is perturbed"));
    let mut missing = real.clone();
    missing.labels.codes[4] = -1;
    assert!(refused(&real, &missing).contains("1 cells have no perturbation label (the first is cell 4)"));
}

#[test]
fn unknown_names_of_measures_and_rules_are_refused() {
    let side = simulated(&[20, 10], 5, 0.3, 0, 1);
    let skip = Settings { skip: vec!["maee".to_string()], ..settings() };
    let message = evaluate(&side, &side, &skip).expect_err("refused").to_string();
    assert!(message.contains("did you mean \"mae\""), "{message}");
    assert!("cell-eval-0.6.7".parse::<Rules>().expect_err("refused").contains("cell-eval-0.6.6"));
    assert!(Rules::ALL.iter().all(|rules| rules.name().parse() == Ok(*rules)));
}

#[test]
fn counts_whose_median_cell_is_empty_are_refused() {
    let empty = with_value(&simulated(&[20, 10], 5, 1.0, 1, 1), 3, 2.0);
    assert!(refused(&sparse(&empty, false), &empty).contains("median cell is empty"));
}

#[test]
fn one_cell_a_group_and_constant_genes_are_measured() {
    let mut side = simulated(&[1, 1, 1], 6, 0.2, 0, 3);
    side.x.values_mut().chunks_mut(6).for_each(|row| row[2] = 0.5);
    let report = evaluate(&side, &side, &settings()).expect("a report");
    let [table, _] = report.tables.as_ref().expect("tables");
    assert_eq!((table.p_value[2], table.statistic[2], table.fold_change[2]), (1.0, 0.5, 1.0));
    assert_eq!(report.column("mse").expect("a column").values, [Some(0.0), Some(0.0)]);
    // No gene is significant: shares are zero, what needs significant genes is left out, areas are undefined.
    let first = |name: &str| report.column(name).expect("a column").values[0];
    assert_eq!((first("overlap_at_N"), first("de_direction_match")), (Some(0.0), None));
    assert!(first("pr_auc").is_some_and(f64::is_nan) && first("de_spearman_sig") == Some(1.0));
}

#[test]
fn a_prediction_without_any_change_has_no_correlation() {
    let real = simulated(&[30, 10, 10], 8, 0.3, 0, 1);
    let mut pred = real.clone();
    pred.x.values_mut().fill(0.75);
    let report = evaluate(&real, &pred, &settings()).expect("a report");
    let values = |name: &str| report.column(name).expect("a column").values.clone();
    assert!(values("pearson_delta").iter().all(|v| v.is_some_and(f64::is_nan)));
    // All real changes are equally far by the cosine: the first name ranks first.
    assert_eq!(values("discrimination_score_cosine"), [Some(1.0), Some(0.5)]);
    let summary = report.column("pearson_delta").expect("a column").summary();
    assert!(summary.mean.is_some_and(f64::is_nan) && summary.mean_of_numbers.is_none() && summary.nan == 2);
}

#[test]
fn profiles_choose_columns_and_only_tables_that_are_needed() {
    let side = simulated(&[30, 10, 10], 8, 0.3, 0, 1);
    let names = |profile: Profile, skip: &[&str]| {
        let skip = skip.iter().map(|name| name.to_string()).collect();
        let report = evaluate(&side, &side, &Settings { profile, skip, ..settings() }).expect("a report");
        let names: Vec<String> = report.columns.iter().map(|column| column.name.clone()).collect();
        (names.join(" "), report.tables.is_some())
    };
    let vcc = "overlap_at_N mae discrimination_score_l1";
    assert_eq!(names(Profile::Vcc, &[]), (vcc.to_string(), true));
    assert_eq!(names(Profile::Pds, &[]), ("discrimination_score_l1".to_string(), false));
    let minimal = "overlap_at_N precision_at_N de_nsig_counts_real de_nsig_counts_pred pearson_delta mse mae \
                   discrimination_score_l1";
    assert_eq!(names(Profile::Minimal, &[]), (minimal.to_string(), true));
    let few = "overlap_at_N precision_at_N mse mae";
    let skip = ["de_nsig_counts", "discrimination_score_l1", "pearson_delta"];
    assert_eq!(names(Profile::Minimal, &skip), (few.to_string(), true));
    assert!(!names(Profile::Anndata, &[]).1 && names(Profile::De, &[]).1);
}

#[test]
fn correlations_of_constants_are_undefined_and_of_lines_one() {
    let x = [0.1f32, 0.4, 0.2, 0.9];
    let line: Vec<f32> = x.iter().map(|v| 2.0 * v - 1.0).collect();
    assert!((pearson(&x, &line) - 1.0).abs() < 1e-7);
    assert!(
        pearson(&x, &[0.1f32; 4]).is_nan()
            && pearson(&[1.0f64], &[2.0]).is_nan()
            && pearson::<f64>(&[], &[]).is_nan()
    );
    assert!((spearman(&[1.0, 2.0, 3.0], &[10.0, 100.0, 1000.0]) - 1.0).abs() < 1e-15);
}

// ---- files ----

/// Writes a side with its cell types to an h5ad file.
fn write_h5ad(path: &Path, side: &Side, types: &[&str]) {
    let (cells, genes) = side.x.shape();
    let obs = Frame {
        index: (0..cells).map(|i| format!("cell{i}")).collect(),
        columns: vec![
            ("target_gene".to_string(), Column::Categorical(side.labels.clone())),
            ("line".to_string(), Column::Categorical(Labels::of(types))),
        ],
    };
    let var = Frame { index: side.genes.clone(), columns: Vec::new() };
    let x = match &side.x {
        Matrix::Sparse(cells) => X::Sparse(cells),
        Matrix::Dense { values, .. } => X::Dense { shape: (cells, genes), numbers: values },
    };
    h5ad::write(path, &obs, &var, x, &[]).expect("written");
}

#[test]
fn a_split_by_cell_type_judges_each_part_alone() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let real = simulated(&[60, 20, 30], 12, 0.3, 0, 1);
    let pred = simulated(&[60, 20, 30], 12, 0.3, 0, 2);
    let types: Vec<&str> = (0..110).map(|i| if i % 3 == 0 { "T/b" } else { "A" }).collect();
    let files = Files { cell_type: Some("line".to_string()), ..files(dir.path()) };
    write_h5ad(&files.real, &sparse(&real, false), &types);
    write_h5ad(&files.pred, &pred, &types);
    let parts = evaluate_files(&files, &[], &settings()).expect("both parts");
    let names: Vec<Option<&str>> = parts.iter().map(|board| board.cell_type.as_deref()).collect();
    assert_eq!(names, [Some("T/b"), Some("A")]);
    for (name, board) in names.into_iter().zip(&parts) {
        board.write(dir.path(), &serde_json::Value::Null).expect("written");
        let report = &board.report;
        let cells: Vec<u32> = (0..110).filter(|&i| Some(types[i as usize]) == name).collect();
        let alone = evaluate(&real.subset(&cells), &pred.subset(&cells), &settings()).expect("a report");
        assert_eq!(alone.tables, report.tables);
    }
    for file in ["T-b_results.csv", "A_agg_results.csv", "A_real_de.csv", "T-b_pred_de.csv", "A_results.json"]
    {
        assert!(dir.path().join(file).exists(), "{file}");
    }
    // One file's name stands for both.
    let alike: Vec<&str> = types.iter().map(|t| if *t == "A" { "T-b" } else { t }).collect();
    write_h5ad(&files.real, &sparse(&real, false), &alike);
    write_h5ad(&files.pred, &pred, &alike);
    let message = evaluate_files(&files, &[], &settings()).expect_err("refused").to_string();
    assert!(message.contains("one results file"), "{message}");
    write_h5ad(&files.real, &sparse(&real, false), &types);
    let others: Vec<&str> = types.iter().map(|t| if *t == "A" { "B" } else { t }).collect();
    write_h5ad(&files.pred, &pred, &others);
    let message = evaluate_files(&files, &[], &settings()).expect_err("refused").to_string();
    assert!(message.contains("pred.h5ad") && message.contains("\"B\" only here"), "{message}");
}

#[test]
fn a_missing_column_is_named_with_those_that_exist() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let side = simulated(&[6, 4], 3, 0.3, 0, 1);
    let files = Files { perturbation: "target".to_string(), ..files(dir.path()) };
    write_h5ad(&files.real, &side, &["A"; 10]);
    write_h5ad(&files.pred, &side, &["A"; 10]);
    let message = evaluate_files(&files, &[], &settings()).expect_err("refused").to_string();
    assert!(message.contains("real.h5ad") && message.contains("target_gene"), "{message}");
}

#[test]
fn a_matrix_that_is_no_rows_of_cells_is_refused() {
    let side = simulated(&[12, 9], 20, 0.5, 4, 1);
    let cells = match sparse(&side, true).x {
        Matrix::Sparse(x) => x,
        Matrix::Dense { .. } => panic!("sparse"),
    };
    let more = |x: Matrix| Side { x, ..side.clone() };
    let values: Vec<f32> = cells.to_dense().iter().copied().collect();
    let dense = |values: &[f32]| Matrix::Dense { genes: 20, values: values.to_vec() };
    let refused = |x: Matrix| Groups::of(&more(x), "ctrl").expect_err("a refusal").to_string();
    assert!(Groups::of(&more(dense(&values)), "ctrl").is_ok());
    assert!(refused(Matrix::Sparse(cells.to_csc())).contains("CSC"));
    let odd = [values, vec![0.0; 7]].concat();
    assert!(refused(dense(&odd)).contains("427 numbers are no whole cells of 20 genes"));
}
