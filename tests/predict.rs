//! What a run answers: held-out pairs, and requests over a user's control cells.

use std::path::Path;

use scale_engine::checkpoint::Checkpoint;
use scale_engine::config::Observe;
use scale_engine::data::h5ad::{self, Cells, Column, Frame, H5ad, Labels, X};
use scale_engine::data::simulate::CONTROL;
use scale_engine::data::split::Part;
use scale_engine::error::Result;
use scale_engine::predict::{self, ControlFile, Report, Source, predict};
use scale_engine::progress::Progress;

use crate::refused;
use crate::train::{last, names, program, small, trained_by};

/// Asks the small run for populations from some control cells; returns X, the perturbations and the report.
fn ask(controls: &Path, request: &str) -> Result<(Cells, Vec<String>, Report)> {
    ask_for(controls, request, "perturbation")
}

/// The same with the labels of another column than the perturbations.
pub fn ask_for(controls: &Path, request: &str, column: &str) -> Result<(Cells, Vec<String>, Report)> {
    answer(controls, request, column, Observe::Poisson)
}

fn answer(
    controls: &Path,
    request: &str,
    column: &str,
    observe: Observe,
) -> Result<(Cells, Vec<String>, Report)> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (csv, out) = (dir.path().join("request.csv"), dir.path().join("out.h5ad"));
    std::fs::write(&csv, format!("perturbation,cell_type,batch,cells\n{request}")).expect("written");
    let source = Source::File { controls: ControlFile::new(controls), request: csv };
    let settings = predict::Settings {
        observe: Some(observe),
        seed: 5,
        ..predict::Settings::new(&small().run, source, &out)
    };
    let report = predict(&settings, &Progress::silent())?;
    let file = H5ad::open(&out)?;
    let labels = file.obs().labels(&out, column)?;
    let labels = (0..labels.len()).map(|i| labels.get(i).expect("a label").to_string()).collect();
    Ok((file.rows(0..file.shape().0)?, labels, report))
}

pub fn rows(x: &Cells, range: std::ops::Range<usize>) -> Vec<Vec<(usize, f32)>> {
    range.map(|i| x.outer_view(i).expect("a row").iter().map(|(g, v)| (g, *v)).collect()).collect()
}

#[test]
fn what_is_read_is_not_written_over() {
    let small = small();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let place = |name: &str| dir.path().join(name);
    let (controls, csv) = (place("controls.h5ad"), place("request.csv"));
    std::fs::copy(&small.cells, &controls).expect("copied");
    std::fs::write(&csv, "perturbation,cell_type,batch,cells\n").expect("written");
    let refused = |out: &Path, source: Source| {
        let settings = predict::Settings::new(&small.run, source, out);
        predict(&settings, &Progress::silent()).expect_err("it would be lost").to_string()
    };
    let before = std::fs::read(&controls).expect("readable");
    for out in [&controls, &csv, &last(&small.run)] {
        // If the run is given, its best checkpoint is what is read.
        let out =
            if out.ends_with("last.safetensors") { &out.with_file_name("best.safetensors") } else { out };
        let told = refused(out, Source::File { controls: ControlFile::new(&controls), request: csv.clone() });
        assert!(told.contains("which is an input"), "{told}");
    }
    let (data, split, part) = (small.data.clone(), small.split.clone(), Part::Val);
    let out = place("out.h5ad");
    let told =
        refused(&out, Source::Data { data, split, part, real_out: Some(out.clone()), real_controls: None });
    assert!(told.contains("twice"), "{told}");
    assert!(std::fs::read(&controls).expect("readable") == before && !out.exists());
}

#[test]
fn mixing_contexts_in_one_request_changes_no_answer() {
    let small = small();
    let (types, perturbations) = names();
    let line = |p: usize, c: usize, b: &str, n: usize| format!("{},{},{b},{n}\n", perturbations[p], types[c]);
    let batches = Checkpoint::describe(&last(&small.run)).expect("readable").header.data.batches;
    let (first, second) = (line(0, 0, &batches[0], 21), line(2, 1, &batches[1], 40));
    let (alone, ..) = ask(&small.cells, &second).expect("an answer");
    let (mixed, labels, report) = ask(&small.cells, &format!("{first}{second}")).expect("an answer");
    assert_eq!((alone.rows(), mixed.rows(), report.cells), (40, 61, 61));
    assert!(
        labels[..21].iter().all(|l| *l == perturbations[0])
            && labels[21..].iter().all(|l| *l == perturbations[2])
    );
    assert!(rows(&alone, 0..40) == rows(&mixed, 21..61), "the answer depends on its neighbours");
}

#[test]
fn genes_are_aligned_by_name_and_missing_ones_are_reported() {
    let small = small();
    let (types, perturbations) = names();
    let batches = Checkpoint::describe(&last(&small.run)).expect("readable").header.data.batches;
    let request = format!("{},{},{},20\n", perturbations[0], types[0], batches[0]);
    let file = H5ad::open(&small.cells).expect("readable");
    let (cells, genes) = file.shape();
    let x = file.rows(0..cells).expect("X");
    let dir = tempfile::tempdir().expect("a temporary folder");
    // The same cells with their genes reversed, and with the last gene cut off.
    let turned = dir.path().join("turned.h5ad");
    let write = |path: &Path, kept: usize, at: &dyn Fn(usize) -> usize| {
        let mut dense = vec![0.0; cells * kept];
        for (row, vector) in x.outer_iterator().enumerate() {
            vector.iter().filter(|(g, _)| at(*g) < kept).for_each(|(g, v)| dense[row * kept + at(g)] = *v);
        }
        let mut var = file.var().clone();
        let names = var.index.clone();
        var.index = vec![String::new(); kept];
        names
            .into_iter()
            .enumerate()
            .filter(|(g, _)| at(*g) < kept)
            .for_each(|(g, name)| var.index[at(g)] = name);
        var.columns.clear();
        h5ad::write(path, file.obs(), &var, X::Dense { shape: (cells, kept), numbers: &dense }, &[])
            .expect("written");
    };
    write(&turned, genes, &|g| genes - 1 - g);
    let (straight, ..) = ask(&small.cells, &request).expect("an answer");
    // Blanks around commas are no part of a name.
    let (spaced, ..) = ask(&small.cells, &request.replace(',', " , ")).expect("an answer");
    assert!(rows(&straight, 0..20) == rows(&spaced, 0..20));
    let (other, _, report) = ask(&turned, &request).expect("an answer");
    assert!(rows(&straight, 0..20) == rows(&other, 0..20) && report.missing_genes.is_empty());

    let cut = dir.path().join("cut.h5ad");
    write(&cut, genes - 1, &|g| g);
    let (.., report) = ask(&cut, &request).expect("an answer");
    assert_eq!(report.missing_genes.len(), 1);
    let half = dir.path().join("half.h5ad");
    write(&half, genes / 2, &|g| g);
    let error = ask(&half, &request).expect_err("too many are missing").to_string();
    assert!(error.contains("lacks"), "{error}");
}

#[test]
fn logged_controls_answer_as_counts_do_empty_cells_too_and_another_total_is_refused() {
    let small = small();
    let (types, perturbations) = names();
    let batches = Checkpoint::describe(&last(&small.run)).expect("readable").header.data.batches;
    let request = format!("{},{},{},20\n", perturbations[0], types[0], batches[0]);
    let file = H5ad::open(&small.cells).expect("readable");
    let shape = file.shape();
    let x = file.rows(0..shape.0).expect("X");
    let dir = tempfile::tempdir().expect("a temporary folder");
    // log1p of the counts scaled to `total`; the cells of `empty` hold nothing.
    let write = |name: &str, total: f32, empty: std::ops::Range<usize>| {
        let mut dense = vec![0.0; shape.0 * shape.1];
        for (row, cell) in x.outer_iterator().enumerate().filter(|(row, _)| !empty.contains(row)) {
            let size: f32 = cell.data().iter().sum::<f32>() / total;
            cell.iter().for_each(|(g, v)| dense[row * shape.1 + g] = (v / size).ln_1p());
        }
        let path = dir.path().join(name);
        let mut var = file.var().clone();
        var.columns.clear();
        h5ad::write(&path, file.obs(), &var, X::Dense { shape, numbers: &dense }, &[]).expect("written");
        path
    };
    let logs = write("logs.h5ad", 1e4, 0..0);
    // Of logarithms nobody knows how many counts a cell has, so that those drawn are others; the means are the same.
    let means = |controls: &Path| {
        let (cells, ..) = answer(controls, &request, "perturbation", Observe::None).expect("an answer");
        cells.to_dense()
    };
    let (of_counts, of_logs) = (means(&small.cells), means(&logs));
    assert_eq!(of_counts.shape(), [20, shape.1]);
    for (a, b) in of_counts.iter().zip(&of_logs) {
        assert!((a - b).abs() < 1e-4, "{a} of counts, {b} of logarithms");
    }
    let (.., report) = ask(&logs, &request).expect("an answer");
    assert!(report.notes.iter().all(|note| !note.contains("without counts")), "{:?}", report.notes);
    let (.., report) = ask(&write("empty.h5ad", 1e4, 0..450), &request).expect("an answer");
    assert!(report.notes.iter().any(|note| note.contains("without counts")), "{:?}", report.notes);
    let error = ask(&write("other.h5ad", 1e6, 0..0), &request).expect_err("another total").to_string();
    assert!(error.contains("1000000") && error.contains("10000"), "{error}");
}

#[test]
fn unknown_names_are_refused_with_the_nearest() {
    let small = small();
    let (types, perturbations) = names();
    let batches = Checkpoint::describe(&last(&small.run)).expect("readable").header.data.batches;
    let wrong = format!("{}x,{},{},20\n", perturbations[0], types[0], batches[0]);
    let error = ask(&small.cells, &wrong).expect_err("unknown").to_string();
    assert!(error.contains("unknown perturbation") && error.contains(&perturbations[0]), "{error}");
    assert!(error.contains("request.csv: line 2: "), "{error}");
    // Lines are counted as an editor counts them, whatever their endings, empty ones included.
    let error = ask(&small.cells, &format!("\r\n{wrong}")).expect_err("unknown").to_string();
    assert!(error.contains("request.csv: line 3: "), "{error}");
    let right = wrong.replace("x,", ",");
    let error = ask(&small.cells, &format!("{right}\r\n\r\n{wrong}")).expect_err("unknown").to_string();
    assert!(error.contains("request.csv: line 5: "), "{error}");
    let wrong = format!("{},{}y,{},20\n", perturbations[0], types[0], batches[0]);
    let error = ask(&small.cells, &wrong).expect_err("unknown").to_string();
    assert!(error.contains("unknown cell type") && error.contains(&types[0]), "{error}");
}

#[test]
fn predicted_controls_are_not_mixed_with_measured_ones() {
    let (small, dir) = (small(), tempfile::tempdir().expect("a temporary folder"));
    let request = format!("non-targeting,{},batch-1,3\n", names().0[0]);
    let (.., report) = ask(&small.cells, &request).expect("an answer");
    assert!(report.notes.iter().any(|note| note.contains("line 2: \"non-targeting\" is the control label")));
    let (csv, out) = (dir.path().join("request.csv"), dir.path().join("out.h5ad"));
    std::fs::write(&csv, format!("perturbation,cell_type,batch,cells\n{request}")).expect("written");
    let source = Source::File { controls: ControlFile::new(&small.cells), request: csv };
    let settings =
        predict::Settings { with_controls: true, ..predict::Settings::new(&small.run, source, &out) };
    let error = predict(&settings, &Progress::silent()).expect_err("one label for both").to_string();
    assert!(error.contains("line 2: ") && error.contains("`with_controls`"), "{error}");
}

#[test]
fn a_perturbation_of_which_no_cell_was_trained_on_is_no_known_one() {
    let (small, dir) = (small(), tempfile::tempdir().expect("a temporary folder"));
    let place = |name: &str| dir.path().join(name);
    let (types, perturbations) = names();
    let held: Vec<String> = types
        .iter()
        .map(|cell_type| format!("[fewshot.\"cells.{cell_type}\"]\ntest = [{:?}]\n", perturbations[3]))
        .collect();
    let text = format!("[datasets]\ncells = \"data\"\n[training]\ncells = \"train\"\n{}", held.concat());
    std::fs::write(place("split.toml"), text).expect("written");
    let split = place("split.toml");
    trained_by(small, &split, &place("run"), &["train.steps=2"], &Progress::silent()).expect("a run");
    assert_eq!(
        Checkpoint::describe(&last(&place("run"))).expect("readable").header.untrained,
        perturbations[3..]
    );
    let (out, real) = (place("out.h5ad"), place("real.h5ad"));
    let ask = |source: Source| {
        let settings = predict::Settings::new(&place("run"), source, &out);
        predict(&predict::Settings { with_controls: true, ..settings }, &Progress::silent())
    };
    let request = place("request.csv");
    let line = format!("perturbation,cell_type,batch,cells\n{},{},batch-1,2\n", perturbations[3], types[0]);
    std::fs::write(&request, line).expect("written");
    let controls = ControlFile::new(&small.cells);
    let told = ask(Source::File { controls, request }).expect_err("noise").to_string();
    assert!(told.contains("line 2: ") && told.contains("not trained on any cell"), "{told}");
    let data = small.data.clone();
    let report = ask(Source::Data {
        data,
        split,
        part: Part::Test,
        real_out: Some(real.clone()),
        real_controls: None,
    })
    .expect("predicted all the same");
    let warning = format!("predictions for {:?} are meaningless", perturbations[3]);
    assert!(report.warnings.iter().any(|told| told.starts_with(&warning)), "{:?}", report.warnings);
    let mut evaluate = program();
    evaluate
        .arg("evaluate")
        .arg("--pred")
        .arg(&out)
        .arg("--real")
        .arg(&real)
        .arg("--out")
        .arg(place("scores"));
    let (code, said) = refused::told(evaluate.args([
        "--pert-col",
        "perturbation",
        "--control-pert",
        CONTROL,
        "--profile",
        "minimal",
    ]));
    assert!(code == Some(0) && said.contains(&format!("warning: {}: {warning}", out.display())), "{said}");
}

/// Predicts the small run's test part, with its controls, and writes what was measured.
pub fn held_out(out: &Path, real: &Path) -> Report {
    let small = small();
    let (data, split) = (small.data.clone(), small.split.clone());
    let source =
        Source::Data { data, split, part: Part::Test, real_out: Some(real.into()), real_controls: None };
    let settings =
        predict::Settings { with_controls: true, ..predict::Settings::new(&small.run, source, out) };
    predict(&settings, &Progress::silent()).expect("a prediction")
}

#[test]
fn held_out_pairs_are_predicted_with_as_many_cells_as_measured() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (out, real) = (dir.path().join("pred.h5ad"), dir.path().join("real.h5ad"));
    held_out(&out, &real);
    let count = |path: &Path| {
        let file = H5ad::open(path).expect("readable");
        let labels = file.obs().labels(path, "perturbation").expect("labels");
        let mut names: Vec<String> =
            (0..labels.len()).map(|i| labels.get(i).expect("one").to_string()).collect();
        names.sort();
        (names, file.var().index.clone())
    };
    assert!(count(&out) == count(&real));
}

/// X of a file, cell by cell under its name: genes and the bits of their values.
fn by_name(path: &Path) -> std::collections::BTreeMap<String, Vec<(usize, u32)>> {
    let file = H5ad::open(path).expect("readable");
    let x = file.rows(0..file.shape().0).expect("X");
    let row = |i: usize| x.outer_view(i).expect("a row").iter().map(|(g, v)| (g, v.to_bits())).collect();
    file.obs().index.iter().enumerate().map(|(i, name)| (name.clone(), row(i))).collect()
}

#[test]
fn control_cells_are_written_with_the_bits_that_were_measured() {
    let (small, dir) = (small(), tempfile::tempdir().expect("a temporary folder"));
    let place = |name: &str| dir.path().join(name);
    let (out, real) = (place("pred.h5ad"), place("real.h5ad"));
    held_out(&out, &real);
    let measured = by_name(&real);
    let same = |path: &Path| {
        let made = by_name(path);
        let controls: Vec<_> = made.iter().filter(|(name, _)| measured.contains_key(*name)).collect();
        assert!(controls.len() > 10, "{}: {} control cells", path.display(), controls.len());
        controls.into_iter().for_each(|(name, row)| assert_eq!(*row, measured[name], "{name}"));
    };
    same(&out);
    // From the file of counts, which has the same cells.
    let (types, perturbations) = names();
    let batches = Checkpoint::describe(&last(&small.run)).expect("readable").header.data.batches;
    let (request, asked) = (place("request.csv"), place("asked.h5ad"));
    let line = format!("{},{},{},5\n", perturbations[0], types[0], batches[0]);
    std::fs::write(&request, format!("perturbation,cell_type,batch,cells\n{line}")).expect("written");
    let source = Source::File { controls: ControlFile::new(&small.cells), request };
    let settings =
        predict::Settings { with_controls: true, ..predict::Settings::new(&small.run, source, &asked) };
    predict(&settings, &Progress::silent()).expect("an answer");
    same(&asked);
}

#[test]
fn control_cells_keep_the_batch_they_were_measured_in() {
    let small = small();
    let (types, perturbations) = names();
    let batches = Checkpoint::describe(&last(&small.run)).expect("readable").header.data.batches;
    let file = H5ad::open(&small.cells).expect("readable");
    let label = |name: &str| file.obs().labels(&small.cells, name).expect("a column");
    // A file with controls of the first batch only, asked for populations in the second.
    let (batch, x) = (label("batch"), file.rows(0..file.shape().0).expect("X"));
    let kept: Vec<usize> = (0..batch.len()).filter(|&i| batch.get(i) == Some(&batches[0])).collect();
    let mut dense = Vec::new();
    kept.iter().for_each(|&i| dense.extend(x.outer_view(i).expect("a row").to_dense()));
    let column = |name: &str| {
        let labels = label(name);
        let words: Vec<&str> = kept.iter().map(|&i| labels.get(i).expect("a label")).collect();
        (name.to_string(), Column::Categorical(Labels::of(&words)))
    };
    let obs = Frame {
        index: (0..kept.len()).map(|i| format!("cell{i}")).collect(),
        columns: ["perturbation", "cell_type", "batch"].map(column).to_vec(),
    };
    let var = Frame { index: file.var().index.clone(), columns: Vec::new() };
    let dir = tempfile::tempdir().expect("a temporary folder");
    let place = |name: &str| dir.path().join(name);
    let (controls, request, out) = (place("controls.h5ad"), place("request.csv"), place("out.h5ad"));
    let shape = (kept.len(), x.cols());
    h5ad::write(&controls, &obs, &var, X::Dense { shape, numbers: &dense }, &[]).expect("written");
    let line = format!("{},{},{},20\n", perturbations[0], types[0], batches[1]);
    std::fs::write(&request, format!("perturbation,cell_type,batch,cells\n{line}")).expect("written");
    let source = Source::File { controls: ControlFile::new(controls), request };
    let settings =
        predict::Settings { with_controls: true, ..predict::Settings::new(&small.run, source, &out) };
    predict(&settings, &Progress::silent()).expect("an answer");
    let made = H5ad::open(&out).expect("readable");
    let made = made.obs().labels(&out, "batch").expect("a column");
    let of = |range: std::ops::Range<usize>| range.map(|i| made.get(i).expect("a label").to_string());
    assert!(of(0..20).all(|b| b == batches[1]), "what was asked for");
    assert!(of(20..made.len()).all(|b| b == batches[0]) && made.len() > 20, "what was measured");
}

#[test]
fn a_population_is_asked_for_once_and_made_from_the_control_cells_of_its_batch() {
    let small = small();
    let (types, perturbations) = names();
    let batches = Checkpoint::describe(&last(&small.run)).expect("readable").header.data.batches;
    let line = format!("{},{},{},90\n", perturbations[0], types[0], batches[1]);
    let error = ask(&small.cells, &format!("{line}{line}")).expect_err("twice").to_string();
    assert!(error.contains("line 3: repeats a population of an earlier line"), "{error}");
    let (_, from, _) = ask_for(&small.cells, &line, "predicted_from").expect("an answer");
    let file = H5ad::open(&small.cells).expect("readable");
    let batch = file.obs().labels(&small.cells, "batch").expect("a column");
    for name in from {
        let cell = file.obs().index.iter().position(|other| *other == name).expect("a control cell");
        assert_eq!(batch.get(cell), Some(batches[1].as_str()), "{name}");
    }
}
