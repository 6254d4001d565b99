//! From file to file: cell types, columns.

use std::path::{Path, PathBuf};

use hdf5_pure::GroupBuilder;
use scale_engine::data::h5ad::{self, Column, Extra, Frame, Labels, X};
use scale_engine::evaluate::files::{Files, Sample, compare, evaluate_files};
use scale_engine::evaluate::side::Side;
use scale_engine::evaluate::{Rules, Settings, evaluate};

use crate::h5ad::raw_file;

use super::{files, settings, simulated, sparse, write_h5ad};

#[test]
fn a_split_by_cell_type_judges_each_part_alone() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let real = simulated(&[60, 20, 30], 12, 0.3, 0, 1);
    let pred = simulated(&[60, 20, 30], 12, 0.3, 0, 2);
    let types: Vec<&str> = (0..110).map(|i| if i % 3 == 0 { "T/b" } else { "A" }).collect();
    let files = Files { cell_type: Some("line".to_string()), ..files(dir.path()) };
    write_h5ad(&files.real, &sparse(&real, false), &types);
    write_h5ad(&files.pred, &pred, &types);
    let parts = evaluate_files(&files, [], &settings()).expect("both parts");
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
    // Both types would have the same file names.
    let alike: Vec<&str> = types.iter().map(|t| if *t == "A" { "T-b" } else { t }).collect();
    write_h5ad(&files.real, &sparse(&real, false), &alike);
    write_h5ad(&files.pred, &pred, &alike);
    let message = evaluate_files(&files, [], &settings()).expect_err("refused").to_string();
    assert!(message.contains("one results file"), "{message}");
    write_h5ad(&files.real, &sparse(&real, false), &types);
    let others: Vec<&str> = types.iter().map(|t| if *t == "A" { "B" } else { t }).collect();
    write_h5ad(&files.pred, &pred, &others);
    let message = evaluate_files(&files, [], &settings()).expect_err("refused").to_string();
    assert!(message.contains("pred.h5ad") && message.contains("cell types only here: \"B\""), "{message}");
}

#[test]
fn a_missing_column_is_named_with_those_that_exist() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let side = simulated(&[6, 4], 3, 0.3, 0, 1);
    let files = Files { perturbation: "target".to_string(), ..files(dir.path()) };
    write_h5ad(&files.real, &side, &["A"; 10]);
    write_h5ad(&files.pred, &side, &["A"; 10]);
    let message = evaluate_files(&files, [], &settings()).expect_err("refused").to_string();
    assert!(
        message.contains("real.h5ad") && message.contains("(the file has: target_gene, line)"),
        "{message}"
    );
    let files =
        Files { perturbation: "target_gene".to_string(), cell_type: Some("lines".to_string()), ..files };
    let message = evaluate_files(&files, [], &settings()).expect_err("refused").to_string();
    assert!(message.contains("did you mean \"line\"? (the file has: target_gene, line)"), "{message}");
    let read = Sample::read(&files.pred, "line", Some("target")).expect_err("refused").to_string();
    assert!(read.contains("pred.h5ad") && read.contains("did you mean \"target_gene\""), "{read}");
}

#[test]
fn a_file_without_x_is_told_what_evaluation_needs() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("empty.h5ad");
    let kept = |obs: &mut GroupBuilder| {
        obs.create_dataset("kept").with_i64_data(&[1, 2, 3]);
    };
    raw_file(&path, [3, 4], |_| (), kept);
    let said = Sample::read(&path, "kept", None).expect_err("refused").to_string();
    assert!(said.contains("empty.h5ad: has no X") && !said.contains("source`"), "{said}");
}

#[test]
fn cells_without_types_are_refused_where_the_measured_ones_are_split() {
    let sample = |name: &str, typed: bool| {
        let mut side = simulated(&[20, 8], 5, 0.3, 0, 1);
        side.source = PathBuf::from(name);
        Sample { side, types: typed.then(|| Labels::of(&["A"; 28])) }
    };
    let (real, pred) = (sample("real", true), sample("pred", true));
    let beside = ("mean".to_string(), sample("mean", false));
    for (pred, beside, untyped) in [(&sample("pred", false), vec![], "pred"), (&pred, vec![beside], "mean")] {
        let beside = beside.into_iter().map(Ok);
        let said = compare(real.clone(), pred.clone(), beside, &settings()).expect_err("refused").to_string();
        assert!(said.starts_with(&format!("{untyped}: has no cell types")), "{said}");
    }
    assert_eq!(compare(real, pred, [], &settings()).expect("both typed").len(), 1);
}

#[test]
fn cells_that_cannot_be_split_are_refused() {
    let whole = |name: &str| {
        let side = Side { source: PathBuf::from(name), ..simulated(&[20, 8], 5, 0.3, 0, 1) };
        Sample { side, types: Some(Labels::of(&["A"; 28])) }
    };
    let with = |codes: Vec<i32>| Sample {
        types: Some(Labels { codes, names: vec!["A".to_string()] }),
        ..whole("odd")
    };
    let none = Sample { side: whole("odd").side.subset(&[]), types: Some(Labels::of::<&str>(&[])) };
    for (odd, told) in [
        (none, "odd: 0 cells by 5 genes: nothing to compare"),
        (with(vec![0; 27]), "odd: 28 cells, but 27 cell types; each cell needs one"),
        (with(vec![0; 29]), "odd: 28 cells, but 29 cell types; each cell needs one"),
        (with(vec![1; 28]), "odd: a cell type is number 1 of 1 names"),
    ] {
        let beside = [Ok(("mean".to_string(), odd.clone()))];
        for refused in [
            compare(odd.clone(), odd.clone(), [], &settings()),
            compare(whole("real"), odd.clone(), [], &settings()),
            compare(whole("real"), whole("pred"), beside, &settings()),
        ] {
            assert_eq!(refused.expect_err("refused").to_string(), told);
        }
    }
}

#[test]
fn a_control_cell_without_a_type_is_named() {
    let side = Side { source: PathBuf::from("real"), ..simulated(&[20, 8], 5, 0.3, 0, 1) };
    let control = (0..28).find(|&cell| side.labels.get(cell) == Some("ctrl")).expect("a control cell");
    let mut types = Labels::of(&["A"; 28]);
    let typed = Sample { side: side.clone(), types: Some(types.clone()) };
    types.codes[control] = -1;
    let untyped = Sample { side, types: Some(types) };
    let told = format!("real: cell {control} has no cell type");
    for (real, pred) in [(&untyped, &typed), (&typed, &untyped)] {
        let said = compare(real.clone(), pred.clone(), [], &settings()).expect_err("refused").to_string();
        assert_eq!(said, told);
    }
}

#[test]
fn cell_types_without_control_cells_are_named() {
    // All control cells are of type A, unless `everywhere`.
    let sample = |name: &str, everywhere: bool| {
        let mut side = simulated(&[20, 16], 5, 0.3, 0, 1);
        side.source = PathBuf::from(name);
        let a = |i: usize| (side.labels.get(i) == Some("ctrl") && !everywhere) || i.is_multiple_of(2);
        let types: Vec<&str> = (0..36).map(|i| if a(i) { "A" } else { "B" }).collect();
        Sample { side, types: Some(Labels::of(&types)) }
    };
    let said = |real: &Sample, pred: &Sample, settings: &Settings| {
        compare(real.clone(), pred.clone(), [], settings).map(|_| ()).map_err(|why| why.to_string())
    };
    let (whole, bare) = (sample("whole", true), sample("bare", false));
    let told = Err("bare: cell type \"B\" has no \"ctrl\" cells; leave it out of both files".to_string());
    assert_eq!(said(&bare, &whole, &settings()), told);
    assert_eq!(said(&whole, &bare, &settings()), told);
    // Compared with the measured control cells, a prediction needs none.
    assert_eq!(said(&whole, &bare, &Settings { rules: Rules::Fixed, ..settings() }), Ok(()));
    let other = Settings { control: "ctrll".to_string(), ..settings() };
    let unknown = said(&whole, &whole, &other).expect_err("refused");
    assert!(unknown.contains("did you mean \"ctrl\""), "{unknown}");
}

#[test]
fn logarithms_that_are_said_to_have_another_base_are_refused() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let files = files(dir.path());
    let side = simulated(&[20, 8], 6, 0.3, 0, 1);
    let base = |path: &Path, side: &Side, base: f32| {
        let (cells, genes) = side.x.shape();
        let obs = Frame {
            index: (0..cells).map(|i| format!("cell{i}")).collect(),
            columns: vec![("target_gene".to_string(), Column::Categorical(side.labels.clone()))],
        };
        let var = Frame { index: side.genes.clone(), columns: Vec::new() };
        let told = Extra::Numbers { shape: vec![1], values: &[base] };
        let x = X::Dense { shape: (cells, genes), numbers: side.x.values() };
        h5ad::write(path, &obs, &var, x, &[("uns/log1p/base".to_string(), told)]).expect("written");
    };
    base(&files.real, &side, std::f32::consts::E);
    base(&files.pred, &side, 2.0);
    let said = evaluate_files(&files, [], &settings()).expect_err("refused").to_string();
    assert!(said.contains("pred.h5ad") && said.contains("logarithms to base 2"), "{said}");
    // Counts are no logarithms, whatever the file says, and a common total proves natural ones.
    let with = |value: fn(f32) -> f32| {
        let mut side = side.clone();
        side.x.values_mut().iter_mut().for_each(|x| *x = value(*x));
        side
    };
    let counts = with(|x| (5.0 * x).round());
    let mut whole = with(f32::exp_m1);
    for row in whole.x.values_mut().chunks_mut(6) {
        let sum: f32 = row.iter().sum();
        row.iter_mut().for_each(|x| *x = (*x * 50.0 / sum.max(1e-3)).ln_1p());
    }
    for side in [counts, whole] {
        base(&files.real, &side, 2.0);
        base(&files.pred, &side, 2.0);
        evaluate_files(&files, [], &settings()).expect("a board");
    }
}
