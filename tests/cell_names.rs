//! Cells keep their names, from the files they were measured in to what is exported and predicted.

use std::collections::HashMap;
use std::process::Stdio;

use scale_engine::data::h5ad::{H5ad, X, write};
use scale_engine::data::population::Population;
use scale_engine::data::preprocess::{Parts, preprocess_parts};
use scale_engine::data::shard::{Columns, Data};
use scale_engine::data::simulate::CONTROL;
use scale_engine::progress::Progress;

use crate::predict::held_out;
use crate::preprocess::{COUNTS, GENES, obs, settings, sparse, var, words};
use crate::train::{program, small};

#[test]
fn names_follow_their_cells_and_those_of_two_files_are_told_apart() {
    let dir = tempfile::tempdir().expect("a folder");
    let place = |name: &str| dir.path().join(name);
    // The second file holds the cells in reverse order, one of them without a label: that one is left out.
    let mut turned = COUNTS;
    turned.reverse();
    let mut second = obs().rows(&[5, 4, 3, 2, 1, 0]);
    second.columns[0].1 = words(&["none", "b", "a", "none", "", "none"]);
    let mut settings = settings(&place("one.h5ad"), &place("data"));
    settings.inputs.push(place("two.h5ad"));
    write(&settings.inputs[0], &obs(), &var(&GENES), X::Sparse(&sparse(&COUNTS)), &[]).expect("written");
    write(&settings.inputs[1], &second, &var(&GENES), X::Sparse(&sparse(&turned)), &[]).expect("written");
    let parts = Parts { cells: 4, ..Parts::default() };
    preprocess_parts(&settings, &parts, &Progress::silent()).expect("made").expect("a summary");

    let data = Data::open(&settings.out).expect("readable");
    let mut seen = HashMap::new();
    for cell in 0..data.cells() {
        let name = data.name(cell);
        let (number, file) =
            name.strip_prefix("cell").and_then(|n| n.split_once('-')).expect("a cell's name");
        let number: usize = number.parse().expect("a number");
        assert!(["0", "1"].contains(&file), "{name}");
        let counts = COUNTS[number].iter().filter(|&&count| count != 0.0);
        let row = data.row(cell);
        assert!((0..row.values.len()).map(|i| row.values.get(i)).eq(counts.copied()), "{name}");
        *seen.entry(name).or_insert(0) += 1;
    }
    assert_eq!((data.cells(), seen.len(), seen.contains_key("cell1-1")), (11, 11, false));

    let out = place("out.h5ad");
    let mut export = program();
    export.arg("export").arg(&settings.out).arg("--out").arg(&out);
    assert!(export.stdout(Stdio::null()).status().expect("the program starts").success());
    let mut names = H5ad::open(&out).expect("readable").obs().index.clone();
    names.sort();
    let wanted = ["0-0", "0-1", "1-0", "2-0", "2-1", "3-0", "3-1", "4-0", "4-1", "5-0", "5-1"];
    assert_eq!(names, wanted.map(|end| format!("cell{end}")));
}

/// Two samples joined without a suffix, as anndata lets one do, and a cell without a name.
#[test]
fn cells_of_one_name_are_told_apart_once_and_every_output_calls_them_alike() {
    let dir = tempfile::tempdir().expect("a folder");
    let place = |name: &str| dir.path().join(name);
    let mut cells = obs();
    cells.index = ["a", "b", "a", "", "b", "a"].map(String::from).to_vec();
    let settings = settings(&place("cells.h5ad"), &place("data"));
    write(&settings.inputs[0], &cells, &var(&GENES), X::Sparse(&sparse(&COUNTS)), &[]).expect("written");
    let parts = Parts { cells: 2, ..Parts::default() };
    let made = preprocess_parts(&settings, &parts, &Progress::silent()).expect("made").expect("a summary");
    let told = made.contents.notes.join("\n");
    assert!(told.contains("cells.h5ad: 3 cells had the name of an earlier cell"), "{told}");

    // The names of adata.obs_names_make_unique(), by the cells' own order and not by that of groups.
    let unique = ["a", "b", "a-1", "cell4", "b-1", "a-2"];
    let place_of = |name: &str| unique.iter().position(|other| *other == name).expect("a name");
    let data = Data::open(&settings.out).expect("readable");
    for cell in 0..data.cells() {
        let (name, row) = (data.name(cell), data.row(cell));
        let counts = COUNTS[place_of(name)].iter().filter(|&&count| count != 0.0);
        assert!((0..row.values.len()).map(|i| row.values.get(i)).eq(counts.copied()), "{name}");
    }
    let named: std::collections::HashSet<&str> = (0..data.cells()).map(|cell| data.name(cell)).collect();
    assert_eq!(named.len() as u64, data.cells());
}

#[test]
fn a_predicted_cell_names_the_control_it_was_made_from() {
    let small = small();
    let dir = tempfile::tempdir().expect("a folder");
    let (out, real) = (dir.path().join("pred.h5ad"), dir.path().join("real.h5ad"));
    let report = held_out(&out, &real);

    let open = |path| H5ad::open(path).expect("readable");
    let label = |file: &H5ad, column: &str, cell: usize| {
        let labels = file.obs().labels(file.path(), column).expect("a column");
        labels.get(cell).unwrap_or_default().to_string()
    };
    let source = open(&small.cells);
    let place: HashMap<&str, usize> = source.obs().index.iter().map(String::as_str).zip(0..).collect();
    let columns = ["perturbation", "cell_type", "batch"];
    let labels = |file: &H5ad, cell: usize| columns.map(|column| label(file, column, cell));
    let made = open(&out);
    for cell in 0..report.cells {
        let from = label(&made, "predicted_from", cell);
        let [perturbation, cell_type, batch] = labels(&source, place[from.as_str()]);
        assert_eq!(perturbation, CONTROL);
        assert_eq!(labels(&made, cell)[1..], [cell_type, batch], "{from}");
    }
    for (file, first) in [(&made, report.cells), (&open(&real), 0)] {
        assert!(first < file.shape().0);
        for cell in first..file.shape().0 {
            let name = file.cell_name(cell);
            assert_eq!(labels(file, cell), labels(&source, place[name.as_str()]), "{name}");
        }
    }
}

#[test]
fn names_that_repeat_are_told_apart_in_a_file() {
    let dir = tempfile::tempdir().expect("a folder");
    let columns = Columns { perturbation: "drug".into(), cell_type: "line".into(), batch: None, size: None };
    let mut cells = Population::new(vec!["MYC".into()], columns);
    for name in ["a", "b", "a", ""] {
        cells.push_measured(name, ["T", "none", "all"], &[0], &[1.0]).expect("in memory");
    }
    let path = dir.path().join("out.h5ad");
    cells.write(&path).expect("written");
    assert_eq!(H5ad::open(&path).expect("readable").obs().index, ["a", "b", "a-1", "cell4"]);
}

#[test]
fn the_command_predicts_with_the_seed_that_it_is_given() {
    let small = small();
    let dir = tempfile::tempdir().expect("a folder");
    let made = |seed: &str| {
        let out = dir.path().join(format!("{seed}.h5ad"));
        let mut predict = program();
        predict.arg("predict").arg(&small.run).args(["--seed", seed, "--data"]).arg(&small.data);
        predict.arg("--split").arg(&small.split).arg("--out").arg(&out);
        assert!(predict.status().expect("the program starts").success());
        let file = H5ad::open(&out).expect("readable");
        assert_eq!(file.told("seed").as_deref(), Some(seed));
        file.rows(0..file.shape().0).expect("X")
    };
    assert!(made("3") != made("4"));
}
