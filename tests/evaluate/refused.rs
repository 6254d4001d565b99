//! What evaluation refuses, what is undefined, what is left out.

use clap::ValueEnum;
use scale_engine::baseline::Kind;
use scale_engine::evaluate::de::Table;
use scale_engine::evaluate::expression::r2;
use scale_engine::evaluate::registry::Profile;
use scale_engine::evaluate::side::{Groups, Matrix, Side};
use scale_engine::evaluate::significant::{Genes, THRESHOLD};
use scale_engine::evaluate::{Rules, Settings, evaluate, pearson, spearman};

use super::{settings, simulated, sparse};

/// The message of an evaluation that must fail.
pub fn refused(real: &Side, pred: &Side) -> String {
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
        // Cut out of a larger matrix, whose offsets it keeps.
        let mut cut = sparse(&simulated(&[20, 10], 5, 0.3, 0, 1), true);
        let Matrix::Sparse(x) = &mut cut.x else { unreachable!() };
        *x = x.slice_outer(3..30).to_owned();
        cut.labels.codes.drain(..3);
        cut.x.values_mut()[0] = value;
        let message = refused(&cut, &good);
        assert!(message.contains("cell 0, gene \"G"), "{message}");
    }
}

#[test]
fn genes_must_be_the_same_in_the_same_order() {
    let real = simulated(&[20, 10], 5, 0.3, 0, 1);
    let mut pred = real.clone();
    pred.genes.swap(1, 3);
    assert!(refused(&real, &pred).contains("gene 2 is \"G3\" here and \"G1\" there; the names are the same"));
    pred.genes[1] = "NEW".to_string();
    let message = refused(&real, &pred);
    assert!(message.contains("missing here: \"G3\"") && message.contains("only here: \"NEW\""), "{message}");
    assert!(
        refused(&real, &simulated(&[20, 10], 6, 0.3, 0, 1)).contains("6 here, 5 there; only here: \"G5\"")
    );
    let none = Side { x: Matrix::Dense { genes: 0, values: Vec::new() }, genes: Vec::new(), ..real.clone() };
    assert!(refused(&none, &none).contains("has no genes"));
    pred.genes[1] = "G0".to_string();
    assert!(refused(&real, &pred).contains("more than once here: \"G0\""), "{}", refused(&real, &pred));
}

#[test]
fn a_perturbation_of_the_only_gene_has_no_gene_to_be_told_by() {
    let mut real = simulated(&[20, 10, 10], 1, 0.3, 0, 1);
    real.genes = vec!["P001".to_string()];
    let report = evaluate(&real, &real, &settings()).expect("one gene");
    let values = &report.column("discrimination_score_l1").expect("a column").values;
    assert_eq!((values[0], values[1]), (None, Some(1.0)));
}

#[test]
fn labels_must_be_the_same_and_hold_the_control() {
    let real = simulated(&[20, 10, 10], 5, 0.3, 0, 1);
    let less = simulated(&[20, 10], 5, 0.3, 0, 1);
    assert!(refused(&real, &less).contains("only in simulated: \"P002\""));
    let none = simulated(&[0, 10, 10], 5, 0.3, 0, 1);
    assert!(refused(&real, &none).contains("has no control cells (\"ctrl\")"));
    assert!(refused(&none, &real).contains("control: simulated: unknown control label \"ctrl\""));
    assert!(refused(&simulated(&[20], 5, 0.3, 0, 1), &real).contains("nothing is perturbed"));
    let mut missing = real.clone();
    missing.labels.codes[4] = -1;
    assert!(refused(&real, &missing).contains("1 cells have no perturbation label (the first is cell 4)"));
    missing.labels.codes[4] = 9;
    assert!(refused(&real, &missing).contains("the label of cell 4 is number 9 of 3 names"));
}

#[test]
fn an_unknown_measure_is_refused_and_options_name_rules_and_baselines() {
    let side = simulated(&[20, 10], 5, 0.3, 0, 1);
    let skip = Settings { skip_metrics: vec!["maee".to_string()], ..settings() };
    let message = evaluate(&side, &side, &skip).expect_err("refused").to_string();
    assert!(message.contains("did you mean \"mae\""), "{message}");
    assert!(Rules::ALL.iter().all(|rules| Rules::from_str(rules.name(), false) == Ok(*rules)));
    assert!(Kind::ALL.iter().all(|kind| Kind::from_str(kind.name(), false) == Ok(*kind)));
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
    // All real changes are equally far by cosine distance: the first name ranks first.
    assert_eq!(values("discrimination_score_cosine"), [Some(1.0), Some(0.5)]);
    let summary = report.column("pearson_delta").expect("a column").summary();
    assert!(summary.mean.is_some_and(f64::is_nan) && summary.mean_of_numbers.is_none() && summary.nan == 2);
}

#[test]
fn profiles_choose_columns_and_only_tables_that_are_needed() {
    let side = simulated(&[30, 10, 10], 8, 0.3, 0, 1);
    let names = |profile: Profile, skip: &[&str]| {
        let skip_metrics = skip.iter().map(|name| name.to_string()).collect();
        let report =
            evaluate(&side, &side, &Settings { profile, skip_metrics, ..settings() }).expect("a report");
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

#[test]
fn a_constant_profile_has_no_r2() {
    assert!(r2(&[0.5; 3], &[0.5, 0.25, 0.75]).is_nan());
    assert_eq!(r2(&[0.0, 1.0], &[0.0, 1.0]), 1.0);
}

#[test]
fn a_gene_at_the_threshold_is_not_significant() {
    let table = Table {
        control: "ctrl".into(),
        targets: vec!["a".into()],
        genes: vec!["G0".into(), "G1".into()],
        reference_mean: vec![1.0; 2],
        target_mean: vec![2.0; 2],
        fold_change: vec![2.0; 2],
        statistic: vec![0.0; 2],
        p_value: vec![0.01; 2],
        fdr: vec![THRESHOLD, 0.049],
    };
    for rules in Rules::ALL {
        let genes = Genes::of(&table, 0, &rules.definitions());
        assert_eq!((genes.ranked.as_slice(), genes.significant(0)), (&[1][..], false), "{}", rules.name());
    }
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
    assert!(refused(dense(&odd)).contains("427 numbers do not make up whole cells of 20 genes"));
}
