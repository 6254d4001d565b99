//! Files that hold only part of the measured genes: where a cell's total counts then come from, and what is refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use scale_engine::data::h5ad::{self, Column, H5ad, X};
use scale_engine::data::shard::Data;
use scale_engine::data::simulate::{Settings as World, simulate};

use crate::refused::told;
use crate::train::{names, program, set, small};

/// The small world's cells with only the kept genes, and their totals over all genes, times `wrong`, in a column.
fn panel(path: &Path, kept: &dyn Fn(&str) -> bool, wrong: f64) {
    panel_of(&small().cells, path, kept, wrong);
}

fn panel_of(cells: &Path, path: &Path, kept: &dyn Fn(&str) -> bool, wrong: f64) {
    let file = H5ad::open(cells).expect("readable");
    let cells = file.shape().0;
    let x = file.rows(0..cells).expect("X");
    let places: Vec<usize> = (0..file.shape().1).filter(|&gene| kept(&file.var().index[gene])).collect();
    let dense: Vec<f32> = x
        .outer_iterator()
        .flat_map(|cell| {
            places.iter().map(move |&gene| cell.get(gene).copied().unwrap_or(0.0)).collect::<Vec<_>>()
        })
        .collect();
    let total =
        |cell: sprs::CsVecViewI<'_, f32, u32>| cell.data().iter().map(|&x| f64::from(x)).sum::<f64>() * wrong;
    let (mut obs, var) = (file.obs().clone(), file.var().rows(&places));
    obs.columns.push(("ncounts".into(), Column::Float(x.outer_iterator().map(total).collect())));
    let shape = (cells, places.len());
    h5ad::write(path, &obs, &var, X::Dense { shape, numbers: &dense }, &[]).expect("written");
}

/// `preprocess` with the simulated world's columns.
fn preprocess(cells: &[&Path], out: &Path, words: &[&str]) -> Command {
    let mut command = program();
    command.arg("preprocess").args(cells).arg("--out").arg(out);
    command.args([
        "--pert-col",
        "perturbation",
        "--control-pert",
        "non-targeting",
        "--celltype-col",
        "cell_type",
    ]);
    command.args(["--batch-col", "batch"]).args(words);
    command
}

pub fn shards(cells: &[&Path], out: &Path, words: &[&str]) -> (Option<i32>, String) {
    told(&mut preprocess(cells, out, words))
}

/// The notes in its summary.
fn notes(cells: &Path, out: &Path, words: &[&str]) -> Vec<String> {
    let done = preprocess(&[cells], out, words)
        .arg("--json")
        .stdout(Stdio::piped())
        .output()
        .expect("the program starts");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let summary: serde_json::Value = serde_json::from_slice(&done.stdout).expect("JSON");
    assert_eq!(summary["out"], serde_json::json!(out));
    summary["notes"].as_array().expect("notes").iter().map(|note| note.to_string()).collect()
}

/// Shards of 20 genes of the whole world; returns their names.
fn whole(out: &Path) -> Vec<String> {
    let (code, said) = shards(&[&small().cells], out, &["--n-top-genes", "20"]);
    assert_eq!(code, Some(0), "{said}");
    Data::open(out).expect("a data directory").manifest().genes.clone()
}

#[test]
fn our_own_log_values_tell_their_total_also_of_a_part_of_the_genes() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let place = |name: &str| dir.path().join(name);
    whole(&place("data"));
    let (code, said) = told(program().arg("export").arg(place("data")).arg("--out").arg(place("own.h5ad")));
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = shards(&[&place("own.h5ad")], &place("again"), &["--n-top-genes", "10"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(Data::open(&place("again")).expect("a data directory").manifest().target, Some(1e4));
    // What the user states must be possible.
    let (code, said) = shards(&[&place("own.h5ad")], &place("tenths"), &["--scale", "log1p10"]);
    assert!(code == Some(1) && said.contains("counts of one gene as log1p10"), "{code:?} {said}");
    let everything = ["export".as_ref(), small().data.as_os_str(), "--out".as_ref()];
    let (code, said) = told(program().args(everything).arg(place("logs.h5ad")));
    assert_eq!(code, Some(0), "{said}");
    let (types, perturbations) = names();
    let request =
        format!("perturbation,cell_type,batch,cells\n{},{},batch-1,2\n", perturbations[0], types[0]);
    fs::write(place("request.csv"), request).expect("written");
    for (scale, what) in
        [("counts", "which is not a count"), ("log1p10", "all on one scale"), ("log1p", "as stated")]
    {
        let mut predict = program();
        predict.arg("predict").arg(&small().run).arg("--controls").arg(place("logs.h5ad")).arg("--request");
        predict.arg(place("request.csv")).arg("--out").arg(place("out.h5ad")).args(["--scale", scale]);
        let (code, said) = told(&mut predict);
        assert!(code == Some(i32::from(scale != "log1p")) && said.contains(what), "{code:?} {said}");
        // `predict` reads X alone, and has no way to another matrix.
        assert!(!said.contains("--source"), "{said}");
    }
}

/// Every row of a directory, as the network sees it.
fn rows(data: &Path) -> Vec<f32> {
    let data = Data::open(data).expect("a data directory");
    let genes = data.manifest().genes.len();
    let mut x = vec![0.0; data.cells() as usize * genes];
    x.chunks_mut(genes).zip(0..).for_each(|(row, cell)| data.fill(cell, row));
    x
}

#[test]
fn a_panel_without_totals_is_pointed_out() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let place = |name: &str| dir.path().join(name);
    let first = H5ad::open(&small().cells).expect("readable").var().index[..10].to_vec();
    panel(&place("panel.h5ad"), &|gene| first.iter().any(|g| g == gene), 1.0);
    let said = |notes: &[String], what: &str| notes.iter().any(|note| note.contains(what));
    let (sum, column) = ("the sum over the", "add --size-col ncounts");
    // A column with far more counts is named; without one, the few genes alone are told.
    let notes_of = |cells: &Path, out: &str| notes(cells, &place(out), &["--n-top-genes", "10"]);
    let named = notes_of(&place("panel.h5ad"), "named");
    assert!(said(&named, column) && !said(&named, sum), "{named:?}");
    let unnamed = notes_of(&small().cells, "unnamed");
    assert!(said(&unnamed, sum) && !said(&unnamed, column), "{unnamed:?}");
}

#[test]
fn a_panel_with_its_totals_is_the_same_data() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let place = |name: &str| dir.path().join(name);
    let genes = whole(&place("whole"));
    fs::write(place("genes.txt"), genes.join("\n")).expect("written");
    let genes_file = place("genes.txt");
    let listed = ["--genes", genes_file.to_str().expect("text"), "--size-col", "ncounts"];
    panel(&place("panel.h5ad"), &|gene| genes.iter().any(|g| g == gene), 1.0);
    let (code, said) = shards(&[&place("panel.h5ad")], &place("panel"), &listed);
    assert_eq!(code, Some(0), "{said}");
    assert!(rows(&place("panel")) == rows(&place("whole")));

    // Totals that are less than what is stored cannot be right.
    panel(&place("less.h5ad"), &|gene| genes.iter().any(|g| g == gene), 0.1);
    let (code, said) = shards(&[&place("less.h5ad")], &place("less"), &listed);
    assert!(code == Some(1) && said.contains("--size-col") && said.contains("less than"), "{code:?} {said}");

    // Exported counts come back, with the totals that are written alongside them.
    let out = place("counts.h5ad");
    let (code, said) =
        told(program().arg("export").arg(place("whole")).args(["--values", "counts", "--out"]).arg(&out));
    assert_eq!(code, Some(0), "{said}");
    let again = ["--genes", genes_file.to_str().expect("text"), "--size-col", "total_counts"];
    let (code, said) = shards(&[&out], &place("again"), &again);
    assert_eq!(code, Some(0), "{said}");
    assert!(rows(&place("again")) == rows(&place("whole")));
}

/// Labels may be called as the totals are: then the totals of exported counts have another name, and are found by it.
#[test]
fn exported_totals_do_not_give_way_to_labels_of_their_name() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let place = |name: &str| dir.path().join(name);
    let file = H5ad::open(&small().cells).expect("readable");
    let (x, mut obs) = (file.rows(0..file.shape().0).expect("X"), file.obs().clone());
    obs.columns.iter_mut().find(|(name, _)| name == "batch").expect("a column").0 = "total_counts".into();
    h5ad::write(&place("cells.h5ad"), &obs, file.var(), X::Sparse(&x), &[]).expect("written");
    let mut command = program();
    command.arg("preprocess").arg(place("cells.h5ad")).arg("--out").arg(place("data"));
    let columns = "--pert-col perturbation --control-pert non-targeting --celltype-col cell_type --batch-col total_counts";
    let (code, said) = told(command.args(columns.split(' ')).args(["--n-top-genes", "10"]));
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = told(
        program()
            .arg("export")
            .arg(place("data"))
            .args(["--values", "counts", "--out"])
            .arg(place("out.h5ad")),
    );
    assert_eq!(code, Some(0), "{said}");
    let out = H5ad::open(&place("out.h5ad")).expect("readable");
    assert_eq!(out.told("totals").as_deref(), Some("total_counts-1"));
    let totals = out.obs().numbers(&place("out.h5ad"), "total_counts-1").expect("numbers");
    let kept = out.rows(0..out.shape().0).expect("X");
    let sums = kept.outer_iterator().map(|cell| cell.data().iter().sum::<f32>());
    assert!(totals.iter().zip(sums).all(|(&total, sum)| total >= sum && total > 0.0));
}

/// Two steps on a data directory, in `dir/run`.
fn short_run(data: &Path, dir: &Path) {
    let split = dir.join("split.toml");
    let text = "[datasets]\nany_name = \"cells.h5ad\"\n[training]\nany_name = \"train\"\n";
    fs::write(&split, text).expect("written");
    let mut train = program();
    train.arg("train").arg("--data").arg(data).arg("--split").arg(split).arg("--out").arg(dir.join("run"));
    train.args(["--preset", "tiny"]);
    for set in set().iter().filter(|set| !set.starts_with("train.steps")) {
        train.args(["--set", set]);
    }
    let (code, said) = told(train.args(["--steps", "2"]));
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn controls_without_the_runs_column_of_totals_are_told_a_way() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let place = |name: &str| dir.path().join(name);
    panel(&place("panel.h5ad"), &|_| true, 1.0);
    let words = ["--n-top-genes", "20", "--size-col", "ncounts"];
    let (code, said) = shards(&[&place("panel.h5ad")], &place("data"), &words);
    assert_eq!(code, Some(0), "{said}");
    short_run(&place("data"), dir.path());
    let (types, perturbations) = names();
    let batch = Data::open(&place("data")).expect("a data directory").manifest().batches[0].clone();
    let request =
        format!("perturbation,cell_type,batch,cells\n{},{},{batch},2\n", perturbations[0], types[0]);
    fs::write(place("request.csv"), request).expect("written");
    let mut predict = program();
    predict.arg("predict").arg(place("run")).arg("--controls").arg(&small().cells).arg("--request");
    let (code, said) = told(predict.arg(place("request.csv")).arg("--out").arg(place("out.h5ad")));
    assert!(
        code == Some(2) && said.contains("\"ncounts\"") && said.contains("name another with --size-col"),
        "{said}"
    );
}

#[test]
fn controls_of_a_panel_need_their_totals() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let place = |name: &str| dir.path().join(name);
    let genes = whole(&place("data"));
    let (types, perturbations) = names();
    short_run(&place("data"), dir.path());

    panel(&place("panel.h5ad"), &|gene| genes.iter().any(|g| g == gene), 1.0);
    let request =
        format!("perturbation,cell_type,batch,cells\n{},{},batch1,20\n", perturbations[0], types[0]);
    let request = request
        .replace("batch1", &Data::open(&place("data")).expect("a data directory").manifest().batches[0]);
    fs::write(place("request.csv"), &request).expect("written");
    let predict = |controls: &Path, out: &PathBuf, words: &[&str]| {
        let mut predict = program();
        predict.arg("predict").arg(place("run")).arg("--controls").arg(controls).arg("--request");
        told(predict.arg(place("request.csv")).arg("--out").arg(out).args(words))
    };
    let (code, said) = predict(&place("panel.h5ad"), &place("a.h5ad"), &[]);
    assert!(code == Some(1) && said.contains("--size-col") && said.contains("60"), "{code:?} {said}");
    assert_eq!(predict(&place("panel.h5ad"), &place("a.h5ad"), &["--size-col", "ncounts"]).0, Some(0));
    assert_eq!(predict(&small().cells, &place("b.h5ad"), &[]).0, Some(0));
    let x = |name: &str| H5ad::open(&place(name)).expect("readable").rows(0..20).expect("X");
    assert!(x("a.h5ad") == x("b.h5ad"));

    // A population may be asked for only once.
    let line = request.lines().last().expect("a line").to_string();
    fs::write(place("request.csv"), format!("{request}{line}\n")).expect("written");
    let (code, said) = predict(&small().cells, &place("c.h5ad"), &[]);
    assert!(
        code == Some(1) && said.contains("line 3") && said.contains("repeats a population"),
        "{code:?} {said}"
    );
    fs::write(place("request.csv"), request.replace(",20", ",-3")).expect("written");
    let (code, said) = predict(&small().cells, &place("c.h5ad"), &[]);
    assert!(code == Some(1) && said.contains("line 2: cells"), "{code:?} {said}");
}

#[test]
fn totals_of_several_files_in_parts_or_from_a_table_are_the_same() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let place = |name: &str| dir.path().join(name);
    let mut table = String::from("cell,total\n");
    for (seed, name) in [(1, "a"), (2, "b")] {
        let world =
            World { cells: 500, skip: 0, genes: 60, perturbations: 4, cell_types: 2, batches: 2, seed };
        let whole = place(&format!("{name}.h5ad"));
        simulate(&world).and_then(|world| world.write(&whole)).expect("a world");
        // Names that are unique across both files, for a table.
        let file = H5ad::open(&whole).expect("readable");
        let (mut obs, x) = (file.obs().clone(), file.rows(0..500).expect("X"));
        obs.index = (0..500).map(|i| format!("{name}{i}")).collect();
        obs.index.iter().zip(x.outer_iterator()).for_each(|(cell, row)| {
            table += &format!("{cell},{}\n", row.data().iter().sum::<f32>());
        });
        h5ad::write(&whole, &obs, file.var(), X::Sparse(&x), &[]).expect("written");
        panel_of(&whole, &place(&format!("{name}-panel.h5ad")), &|gene| gene < "GENE0031", 1.0);
    }
    fs::write(place("totals.csv"), table).expect("written");
    fs::write(place("genes.txt"), (1..=30).map(|i| format!("GENE{i:04}\n")).collect::<String>())
        .expect("written");
    let (genes, totals) = (place("genes.txt"), place("totals.csv"));
    let [genes, totals] = [&genes, &totals].map(|path| path.to_str().expect("text"));
    let common = ["--genes", genes, "--target-sum", "median", "--min-counts", "20"];
    for (out, files, words) in [
        ("whole", ["a.h5ad", "b.h5ad"], &[][..]),
        ("column", ["a-panel.h5ad", "b-panel.h5ad"], &["--size-col", "ncounts", "--part-cells", "64"]),
        ("table", ["a-panel.h5ad", "b-panel.h5ad"], &["--size-col", "total", "--labels", totals]),
    ] {
        let [a, b] = files.map(&place);
        let (code, said) = shards(&[&a, &b], &place(out), &[&common[..], words].concat());
        assert_eq!(code, Some(0), "{said}");
    }
    assert!(
        rows(&place("column")) == rows(&place("whole")) && rows(&place("table")) == rows(&place("whole"))
    );
}

#[test]
fn the_same_cells_in_two_files_are_told() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    fs::copy(&small().cells, dir.path().join("one.h5ad")).expect("copied");
    fs::copy(&small().cells, dir.path().join("two.h5ad")).expect("copied");
    let mut command = program();
    command.current_dir(dir.path()).args([
        "preprocess",
        "one.h5ad",
        "two.h5ad",
        "--out",
        "data",
        "--pert-col",
    ]);
    command.args(["perturbation", "--control-pert", "non-targeting", "--celltype-col", "cell_type"]);
    let said = String::from_utf8(command.stdout(Stdio::piped()).output().expect("the program starts").stdout)
        .expect("text");
    assert!(said.contains("one.h5ad and two.h5ad contain the same counts"), "{said}");
}

#[test]
fn totals_of_cells_that_are_not_used_may_be_missing() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let place = |name: &str| dir.path().join(name);
    for (name, cell_is_used) in [("unused", false), ("used", true)] {
        let file = H5ad::open(&small().cells).expect("readable");
        let x = file.rows(0..file.shape().0).expect("X");
        let mut obs = file.obs().clone();
        let mut totals: Vec<f64> =
            x.outer_iterator().map(|row| f64::from(row.data().iter().sum::<f32>())).collect();
        totals[7] = f64::NAN;
        obs.columns.push(("ncounts".into(), Column::Float(totals)));
        if let (false, Some((_, Column::Categorical(labels)))) =
            (cell_is_used, obs.columns.iter_mut().find(|(name, _)| name == "cell_type"))
        {
            labels.codes[7] = -1;
        }
        h5ad::write(&place("cells.h5ad"), &obs, file.var(), X::Sparse(&x), &[]).expect("written");
        let (code, said) = shards(&[&place("cells.h5ad")], &place(name), &["--size-col", "ncounts"]);
        assert_eq!(code, Some(i32::from(cell_is_used)), "{said}");
        assert!(!cell_is_used || said.contains("not a total of counts"), "{said}");
    }
}
